"""G-RA's reward for repositories: an outcome of four levels, and steps that count if it is good enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agentrl import ConfigError, Reward, Term, Trajectory, Turn, gate

LEVELS = ("unsubmitted", "empty", "failing", "passing")
"""Of a verdict, from the worst; a change that was refused is a failing one."""


def gated(levels: Sequence[float], step: float, gate_at: float, strict: bool) -> list[Term]:
    """The outcome and the steps that its gate lets through.

    Args:
        levels: what the four levels are worth, rising.
        step: paid for a turn whose calls succeed, taken for one with a call that fails.
        gate_at: the level's worth from which on steps count.
        strict: whether it has to be above ``gate_at``.

    Raises:
        ConfigError: a value does not fit.
    """
    if len(levels) != len(LEVELS) or not all(map(math.isfinite, levels)) or list(levels) != sorted(levels):
        raise ConfigError(
            f"levels={list(levels)} must be {len(LEVELS)} rising numbers, for {', '.join(LEVELS)}."
        )
    if not 0 <= step < math.inf or not math.isfinite(gate_at):
        raise ConfigError(f"step={step} must be 0 or more, and gate_at={gate_at} a number.")
    worth = dict(zip(LEVELS, map(float, levels), strict=True))

    def outcome(episode: Trajectory) -> float:
        level = str(episode.metadata["verdict"]["level"])
        return worth["failing" if level == "refused" else level]

    def steps(episode: Trajectory, turn: Turn) -> float:
        if not turn.calls:
            return 0.0
        return -step if any(call.status != "ok" or call.observation.error for call in turn.calls) else step

    reached = Reward(outcome, "outcome")
    passes = reached > gate_at if strict else reached >= gate_at
    return [reached + gate(passes, then=Reward(steps, "steps", per="turn"))]

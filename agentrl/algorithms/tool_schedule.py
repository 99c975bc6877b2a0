"""SPEAR's schedules: self-imitation that fades in, a reward for tool calls that fades out."""

from __future__ import annotations

import math

from agentrl.errors import DefinitionError
from agentrl.reward import Reward
from agentrl.schedules import schedule
from agentrl.terms import Term
from agentrl.trajectory import Trajectory


def imitation_weight(step: float, *, steps: float = 200, coefficient: float = 1.0) -> float:
    """``c * (1 - cos(pi t / T1)) / 2`` up to ``T1``, then ``c`` (SPEAR, dp_actor.py:583)."""
    return coefficient * (1 - math.cos(math.pi * _share(step, steps))) / 2


def tool_reward(call_turns: int, step: float, *, steps: float = 200) -> float:
    """``min(0.1 n, 1) * (cos(pi t / T2) + 1) / 2`` for ``n`` turns with calls; 0 from ``T2`` on."""
    if call_turns < 0:
        raise DefinitionError(f"call_turns={call_turns} must not be negative.")
    return min(0.1 * call_turns, 1.0) * fade(step, steps=steps)


def fade(step: float, *, steps: float = 200) -> float:
    """``(cos(pi t / T2) + 1) / 2``: 1 at first, 0 from ``T2`` on."""
    return (math.cos(math.pi * _share(step, steps)) + 1) / 2


def tool_bonus(until: float = 1.0) -> Term:
    """The same as a reward: :func:`tool_reward` over the training's progress, 0 from ``until`` on.

    ::

        rewards = [correct, tool_bonus(until=0.5)]
    """
    return Reward(_calling, "tool_bonus") * schedule(1.0, 0.0, until=until, shape="cosine")


def _calling(episode: Trajectory) -> float:
    return tool_reward(sum(bool(turn.calls) for turn in episode.turns), 0.0)


def _share(step: float, steps: float) -> float:
    if steps <= 0 or step < 0:
        raise DefinitionError(f"step={step} must not be negative, and steps={steps} must be above 0.")
    return min(step / steps, 1.0)

"""UI-S1: episodes along an expert's trace; the model's own outputs stay in the history, with patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from agentrl.errors import DefinitionError

S = TypeVar("S")
A = TypeVar("A")


@dataclass(frozen=True)
class Step(Generic[S, A]):
    """One step: the state, what the model did, what stands in the history (the expert's, if patched)."""

    state: S
    action: A
    history: A
    matched: bool

    @property
    def patched(self) -> bool:
        """Whether the history holds what the model did not say. Patched tokens carry no loss (inferred)."""
        return not self.matched and self.history is not self.action


def semi_online(
    trace: Sequence[tuple[S, A]],
    act: Callable[[S, Sequence[A]], A],
    matches: Callable[[A, A], bool],
    *,
    patches: int = 1,
) -> list[Step[S, A]]:
    """Play a model along an expert's trace.

    Where the model's action matches the expert's, the expert's next state follows. Where it does not, the
    expert's action takes its place in the history, up to ``patches`` times; then the episode ends there.

    Args:
        trace: the expert's (state, action) pairs.
        act: the model's action by the state and the history of actions.
        matches: whether the model's action is the expert's.
        patches: 1 is the paper's (its script takes 2).

    Raises:
        DefinitionError: ``patches`` is negative.
    """
    if patches < 0:
        raise DefinitionError(f"patches={patches} must not be negative.")
    steps: list[Step[S, A]] = []
    left = patches
    for state, expert in trace:
        action = act(state, [step.history for step in steps])
        matched = matches(action, expert)
        patch = not matched and left > 0
        steps.append(Step(state, action, expert if patch else action, matched))
        if patch:
            left -= 1
        elif not matched:
            break
    return steps


def step_reward(form: bool, kind: bool, exact: bool) -> float:
    """``.1 form + .4 [form] kind + .5 [form and kind] exact`` (UI-S1, Eq. 8)."""
    return 0.1 * form + 0.4 * (form and kind) + 0.5 * (form and kind and exact)


def step_reward_of_code(form: bool, parsed: bool, kind: bool, exact: bool) -> float:
    """``.1 form + .9 s`` with ``s`` of 1 (exact), .5 (kind), .1 (parsed) or 0 (UI-S1, gui_traj.py)."""
    score = 1.0 if exact else 0.5 if kind else 0.1 if parsed else 0.0
    return 0.1 * form + 0.9 * score


@dataclass(frozen=True)
class SOP:
    """UI-S1's semi-online performance: mean progress, share of whole trajectories, and their mean."""

    progress: float
    success: float

    @property
    def score(self) -> float:
        """``(PG + TSR) / 2``."""
        return (self.progress + self.success) / 2


def sop(matched: Sequence[int], lengths: Sequence[int]) -> SOP:
    """The metric from steps matched before the first mismatch, ``[N]``, and the traces' lengths, ``[N]``.

    Raises:
        DefinitionError: there are none, or a count does not fit its length.
    """
    if not lengths or len(matched) != len(lengths):
        raise DefinitionError(f"{len(matched)} counts and {len(lengths)} lengths are no traces.")
    if any(not 0 <= own <= length or length < 1 for own, length in zip(matched, lengths, strict=True)):
        raise DefinitionError("A trace has at least one step, and no more are matched than it has.")
    shares = [own / length for own, length in zip(matched, lengths, strict=True)]
    return SOP(sum(shares) / len(shares), sum(share == 1 for share in shares) / len(shares))

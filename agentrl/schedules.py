"""Numbers in rewards that change while the policy is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from agentrl.errors import DefinitionError
from agentrl.terms import Amount, Term

if TYPE_CHECKING:
    from agentrl.trajectory import Trajectory

Shape = Literal["linear", "cosine", "step"]


class Schedule(Term):
    """A number that changes while the policy is trained. Made by :func:`schedule`."""

    def __init__(self, function: Callable[[float], float], shown: str) -> None:
        self.function, self.shown = function, shown

    def bind(self, owner: object) -> Term:
        """Itself."""
        return self

    def amount(self, episode: Trajectory) -> Amount | None:
        """The number at the episode's place in the training."""
        return Amount(float(self.function(episode.progress)))

    def __str__(self) -> str:
        return self.shown


def schedule(
    start: float | Callable[[float], float],
    end: float | None = None,
    *,
    since: float = 0.0,
    until: float = 1.0,
    shape: Shape = "linear",
) -> Term:
    """A number that changes while the policy is trained; a factor or a summand of an expression.

    Progress is the share of the training's steps that are done: 0 in the first step, 1 in the last,
    and 1 in every evaluation, so that held-out rewards can be compared.

    Args:
        start: the number up to ``since``; or instead of all else, a function of progress.
        end: the number from ``until`` on.
        since, until: the part of the training in which it changes, within 0 and 1.
        shape: ``linear``, ``cosine`` (slow at both ends) or ``step`` (all at once, at ``until``).

    Raises:
        DefinitionError: the settings do not fit.
    """
    if callable(start):
        return Schedule(start, f"schedule({getattr(start, '__name__', 'function')})")
    if end is None or not (math.isfinite(start) and math.isfinite(end)):
        raise DefinitionError("schedule() goes from one finite number to another, or takes a function.")
    if not 0.0 <= since <= until <= 1.0 or shape not in _SHAPES:
        raise DefinitionError(
            f"schedule(since={since}, until={until}, shape={shape!r}): 0 <= since <= until <= 1 must hold, "
            f"and the shapes are {', '.join(_SHAPES)}."
        )
    low, high = float(start), float(end)
    return Schedule(curve(low, high, since=since, until=until, shape=shape), f"schedule({low:g}, {high:g})")


def curve(
    start: float, end: float, *, since: float, until: float, shape: Shape = "linear"
) -> Callable[[float], float]:
    """A number as a function of a position, be it progress or a step.

    Args:
        start: the number up to ``since``.
        end: the number from ``until`` on.
        since, until: where it changes.
        shape: how; see :func:`schedule`.
    """

    def at(position: float) -> float:
        if position >= until:
            return end
        if position <= since:
            return start
        return start + (end - start) * _SHAPES[shape]((position - since) / (until - since))

    return at


_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "cosine": lambda share: (1.0 - math.cos(math.pi * share)) / 2,
    "step": lambda share: 0.0,
}

"""Gated reward accumulation (G-RA): rewards of low priority count only where the higher ones pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentrl.errors import DefinitionError
from agentrl.terms import Term
from agentrl.terms import gate as choose

Comparator = Literal[">=", ">"]

SWE_LEVELS = {"no submit": -1.0, "empty patch": -0.5, "tests fail": 0.0, "tests pass": 1.0}
"""The four outcomes of G-RA's software environment. Their order is the paper's, the numbers are inferred."""


@dataclass(frozen=True)
class Level:
    """Rewards of one priority.

    Args:
        rewards: of the episode, summed; step rewards are several.
        threshold: which their sum must pass for lower levels to count.
        comparator: ``>=`` or ``>``. The sources of G-RA disagree, so it is said each time.
    """

    rewards: Sequence[float]
    threshold: float = 0.0
    comparator: Comparator = ">="

    def passed(self) -> bool:
        """Whether the sum passes the threshold.

        Raises:
            DefinitionError: the comparator is unknown.
        """
        total = sum(self.rewards)
        if self.comparator == ">=":
            return total >= self.threshold
        if self.comparator == ">":
            return total > self.threshold
        raise DefinitionError(f"comparator={self.comparator!r} must be '>=' or '>'.")


def accumulated(levels: Sequence[Level]) -> float:
    """The gated sum of an episode's rewards, the highest priority first.

    A level counts if all above it pass. With two: ``R = r_high + 1[r_high >= delta] * sum(r_low)``.
    Ungated (D-RA) is the plain sum of all.
    """
    total = 0.0
    for level in levels:
        total += sum(level.rewards)
        if not level.passed():
            break
    return total


def gated(high: Term, low: Term | float, *, threshold: float, comparator: Comparator) -> Term:
    """The same as a reward of an environment::

        rewards = [gated(outcome, step_bonus, threshold=0.0, comparator=">=")]

    Args:
        high: one number per episode.
        low: what counts only where ``high`` passes; may be per turn.

    Raises:
        DefinitionError: ``high`` has values per turn, or the comparator is unknown.
    """
    if comparator not in (">=", ">"):
        raise DefinitionError(f"comparator={comparator!r} must be '>=' or '>'.")
    condition = high >= threshold if comparator == ">=" else high > threshold
    return high + choose(condition, then=low)

"""SAPO's mix of a step: groups of one's own, and groups of other nodes that teach something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

EPSILON = 1e-9
"""Rewards that differ by no more are alike."""


def informative(rewards: Sequence[float]) -> bool:
    """Whether a group's advantages are not all zero: its rewards differ."""
    return len(rewards) > 1 and max(rewards) - min(rewards) > EPSILON


def chosen(external: Mapping[str, Sequence[float]], count: int, rng: Random) -> list[str]:
    """Which of other nodes' groups are trained on: of those whose rewards differ, ``count`` at random.

    One's own groups are not filtered (SAPO, arXiv:2509.08721, section 3).

    Args:
        external: rewards by the group's name.
        count: J of the paper; fewer where there are no more.
    """
    useful = [name for name, rewards in external.items() if informative(rewards)]
    return rng.sample(useful, min(count, len(useful)))


def external_groups(groups: int, local: int, external: int) -> int:
    """How many of a step's groups may be other nodes', where of ``local + external`` so many are.

    At least one is one's own.
    """
    return min(groups - 1, round(groups * external / (local + external)))

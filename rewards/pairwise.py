"""Comparing the episodes of a task with each other: a reward is the share of comparisons won (SPO)."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from itertools import combinations
from typing import Any

from agentrl import Reward, Trajectory

Compare = Callable[[Trajectory, Trajectory], "float | Awaitable[float | None] | None"]


Meet = Callable[[Sequence[Trajectory]], Iterable[tuple[int, int]]]


def every_two(episodes: Sequence[Trajectory]) -> Iterable[tuple[int, int]]:
    """All pairs of a group, by their places in it."""
    return combinations(range(len(episodes)), 2)


def win_rate(
    compare: Compare, *, meet: Meet = every_two, name: str = "win_rate", weight: float = 1.0
) -> Reward:
    """A reward per group: the mean chance that an episode beats each of those that it meets.

    If all meet equally many, its mean over a group is one half, so a policy cannot raise it for all of them.
    An episode that meets nobody gets one half.

    Args:
        compare: the chance, from 0 to 1, that the first is the better one; ``None`` for a tie. May be
            async. Called once for every two episodes that meet; all comparisons of a group run at once.
        meet: which do, by their places in the group.
        name, weight: as of every reward.
    """

    async def share(episodes: Sequence[Trajectory]) -> list[float]:
        pairs = list(meet(episodes))
        chances = await _all(_chance(compare, episodes[i], episodes[j]) for i, j in pairs)
        won, met = [0.0] * len(episodes), [0] * len(episodes)
        for (i, j), chance in zip(pairs, chances, strict=True):
            won[i] += chance
            won[j] += 1.0 - chance
            met[i] += 1
            met[j] += 1
        return [value / games if games else 0.5 for value, games in zip(won, met, strict=True)]

    return Reward(share, name, weight, per="group")


async def _all(work: Iterable[Coroutine[Any, Any, float]]) -> list[float]:
    """The results in order; the first that fails ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as problems:
        raise problems.exceptions[0] from problems
    return [task.result() for task in tasks]


async def _chance(compare: Compare, first: Trajectory, second: Trajectory) -> float:
    found = compare(first, second)
    chance = await found if inspect.isawaitable(found) else found
    if chance is None:
        return 0.5
    if not 0.0 <= chance <= 1.0:
        raise ValueError(f"a chance of {chance!r} is not within 0 and 1")
    return float(chance)

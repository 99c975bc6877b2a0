"""Bringing the episodes of a task together, for rewards that need all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agentrl.trajectory import Trajectory

Judge = Callable[[list[Trajectory]], Awaitable[None]]


@dataclass
class _Group:
    """The episodes of a task that have come so far."""

    arrived: int = 0
    members: list[Trajectory] = field(default_factory=list)
    problem: Exception | None = None
    judged: asyncio.Event = field(default_factory=asyncio.Event)


class Groups:
    """Groups that are not complete yet. An episode waits here, in memory, for the others of its task.

    Args:
        judge: given a complete group, void episodes included.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._open: dict[str, _Group] = {}

    async def add(self, episode: Trajectory, size: int) -> list[Trajectory]:
        """Take an episode; returns the whole group once it is judged, and nothing before.

        Raises:
            UsageError: the judging failed, or another episode of the group.
        """
        group = self._arrive(episode.group, size)
        group.members.append(episode)
        if group.problem is not None:
            raise group.problem
        if group.arrived < size:
            return []
        try:
            await self._judge(group.members)
        except BaseException as problem:
            group.problem = _for_others(problem)
            raise
        finally:
            group.judged.set()
        return group.members

    async def wait(self, episode: Trajectory, size: int) -> None:
        """Take an episode and wait until its group is judged.

        Raises:
            UsageError: the judging failed, or another episode of the group.
            RuntimeError: another episode of the group was cancelled.
        """
        group = self._open.get(episode.group)
        if await self.add(episode, size):
            return
        group = group or self._open[episode.group]
        await group.judged.wait()
        if group.problem is not None:
            raise group.problem

    def fail(self, name: str, size: int, problem: BaseException) -> None:
        """Say that an episode of a group will not come, so that none waits for it."""
        group = self._arrive(name, size)
        group.problem = _for_others(problem)
        group.judged.set()

    def _arrive(self, name: str, size: int) -> _Group:
        group = self._open.setdefault(name, _Group())
        group.arrived += 1
        if group.arrived >= size:
            del self._open[name]
        return group


def _for_others(problem: BaseException) -> Exception:
    """What the rest of a group is told; an episode that was cancelled does not cancel them."""
    if isinstance(problem, Exception):
        return problem
    return RuntimeError("Another episode of the group was cancelled.")

"""The order in which jobs are begun: groups together, the longest first."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from agentrl.rollout.scheduler import Job
from agentrl.task import Task
from agentrl.trajectory import Trajectory


def group_jobs(
    tasks: Iterable[Task],
    size: int | Callable[[Task], int],
    *,
    over: int = 0,
    name: Callable[[int, Task], str] = lambda number, task: f"{number}-{task.id}",
    **how: Any,
) -> Iterator[Job]:
    """The jobs of a group for each task, one group after the other.

    Args:
        tasks: may be endless.
        size: episodes of a task that are wanted; a function where tasks differ, as in DART.
        over: further ones that are begun, so that the slowest need not be waited for; see
            :attr:`agentrl.rollout.Job.enough`.
        name: of a group, from its number and its task.
        **how: other fields of :class:`agentrl.rollout.Job`.

    Raises:
        ValueError: a group has no episode.
    """
    for number, task in enumerate(tasks):
        wanted = size(task) if callable(size) else size
        if wanted < 1 or over < 0:
            raise ValueError(
                f"Task {task.id} has a group of {wanted} episodes and {over} over; at least 1 and 0."
            )
        group = name(number, task)
        for index in range(wanted + over):
            yield Job(task, f"{group}-{index}", group=group, group_size=wanted + over, enough=wanted, **how)


def longest_first(
    jobs: Iterable[Job], length: Callable[[Task], float], *, window: int = 1024
) -> Iterator[Job]:
    """Jobs of a window with the longest groups first, since what begins last ends last.

    One window is given out before the next is looked at, so nothing is put off for ever.

    Args:
        jobs: groups in a row; may be endless.
        length: what an episode of a task is expected to take, in any unit; see :class:`Lengths`.
        window: jobs that are looked at together; a group is never split.
    """
    groups = (
        list(members) for _, members in itertools.groupby(jobs, key=lambda job: job.group or job.episode_id)
    )
    while ahead := _window(groups, window):
        ahead.sort(key=lambda members: -length(members[0].task))
        yield from itertools.chain.from_iterable(ahead)


def _window(groups: Iterator[list[Job]], window: int) -> list[list[Job]]:
    taken, jobs = [], 0
    while jobs < window and (members := next(groups, None)) is not None:
        taken.append(members)
        jobs += len(members)
    return taken


class Lengths:
    """How long episodes of each task take, learnt from those that ended.

    Args:
        most: tasks remembered; the one not seen for longest is forgotten first.
        weight: of the newest episode in a task's running mean.
    """

    def __init__(self, most: int = 100_000, *, weight: float = 0.3) -> None:
        self._most, self._weight = most, weight
        self._known: OrderedDict[str, float] = OrderedDict()
        self._count, self._mean = 0, 0.0

    def add(self, episode: Trajectory) -> None:
        """Learn from an episode; void ones tell nothing."""
        if episode.status == "void":
            return
        task, seconds = episode.task.id, episode.seconds
        self._count += 1
        self._mean += (seconds - self._mean) / self._count
        old = self._known.pop(task, seconds)
        self._known[task] = old + self._weight * (seconds - old)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def __call__(self, task: Task) -> float:
        """Seconds that an episode of the task is expected to take; for an unknown one the mean of all."""
        return self._known.get(task.id, self._mean)

"""Groups under way: enough of them ended, or the last takes too long, and the others are given up."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentrl.trajectory import Trajectory

if TYPE_CHECKING:
    from agentrl.rollout.scheduler import Job


ROUNDING = 1e-6
"""Seconds by which a timer may come early, without being set again for the same moment for ever."""


@dataclass(frozen=True, slots=True)
class Stragglers:
    """When the last episodes of a group are given up.

    Args:
        share: of the group's episodes that must have ended before the others are timed.
        factor: the others get so many times the median of those that ended, in seconds since they began.
        least_seconds: they get at least this.
    """

    share: float = 0.5
    factor: float = 3.0
    least_seconds: float = 30.0


@dataclass(slots=True)
class _Cohort:
    """One group.

    Args:
        expected: episodes that may still come: under way, or not begun yet.
        arrived: episodes that count.
        seconds: how long each of those took that ended well.
        playing: those under way and when they began.
    """

    expected: int
    arrived: int = 0
    seconds: list[float] = field(default_factory=list)
    playing: dict[str, tuple[asyncio.Task[Any], float]] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None


def surplus(job: Job) -> str:
    """Why an episode is not wanted any more."""
    return f"surplus: {job.wanted} episodes of group {job.group} had ended"


class Cohorts:
    """All groups under way. Groups of which every episode is waited for are none of its business.

    Args:
        stragglers: when the last of a group are given up; ``None``: never.

    Attributes:
        given_up: why, by name: episodes that were cancelled and have not noticed yet.
    """

    def __init__(self, stragglers: Stragglers | None = None) -> None:
        self.given_up: dict[str, str] = {}
        self._stragglers = stragglers
        self._open: dict[str, _Cohort] = {}
        self._now = asyncio.get_running_loop().time

    def needs(self, job: Job) -> bool:
        """Whether a job that has not begun is still wanted. If it is not, it is done with."""
        cohort = self._of(job)
        if cohort is None or cohort.arrived < job.wanted:
            return True
        self._one_less(job, cohort)
        return False

    def begin(self, job: Job) -> None:
        """An episode begins in the task that calls this."""
        cohort, task = self._of(job), asyncio.current_task()
        if cohort is None or task is None:
            return
        cohort.playing[job.episode_id] = (task, self._now())
        if cohort.arrived >= job.wanted:
            self._give_up(cohort, surplus(job))
        self._set_clock(job, cohort)

    def end(self, job: Job, episode: Trajectory) -> bool:
        """An episode ended; whether it counts as one of its group.

        A void one counts only where the group cannot be completed without it.
        """
        cohort = self._of(job)
        if cohort is None:
            return True
        cohort.playing.pop(job.episode_id, None)
        good = episode.status != "void"
        counts = cohort.arrived < job.wanted and (good or cohort.arrived + cohort.expected - 1 < job.wanted)
        if good:
            cohort.seconds.append(episode.seconds)
        cohort.arrived += counts
        if cohort.arrived >= job.wanted:
            self._give_up(cohort, surplus(job))
        self._set_clock(job, cohort)
        self._one_less(job, cohort)
        return counts

    def close(self) -> None:
        """Stop all clocks."""
        for cohort in self._open.values():
            if cohort.timer is not None:
                cohort.timer.cancel()

    def _of(self, job: Job) -> _Cohort | None:
        if job.group_size == 1 or (self._stragglers is None and job.enough is None):
            return None
        return self._open.setdefault(job.group, _Cohort(job.group_size))

    def _one_less(self, job: Job, cohort: _Cohort) -> None:
        cohort.expected -= 1
        if cohort.expected <= 0:
            if cohort.timer is not None:
                cohort.timer.cancel()
            del self._open[job.group]

    def _set_clock(self, job: Job, cohort: _Cohort) -> None:
        """Time what is under way, once enough have ended to tell how long it should take."""
        rule = self._stragglers
        if rule is None or not cohort.seconds or len(cohort.seconds) < rule.share * job.wanted:
            return
        if cohort.timer is not None:
            cohort.timer.cancel()
            cohort.timer = None
        allowed = max(rule.least_seconds, rule.factor * statistics.median(cohort.seconds))
        begun = [began for name, (_, began) in cohort.playing.items() if name not in self.given_up]
        if begun:
            loop = asyncio.get_running_loop()
            cohort.timer = loop.call_at(min(begun) + allowed, self._too_late, job, cohort, allowed)

    def _too_late(self, job: Job, cohort: _Cohort, allowed: float) -> None:
        cohort.timer = None
        before = self._now() - allowed + ROUNDING
        self._give_up(cohort, f"straggler: it took longer than {allowed:.1f} s", before)
        self._set_clock(job, cohort)

    def _give_up(self, cohort: _Cohort, reason: str, before: float = float("inf")) -> None:
        for name, (task, began) in cohort.playing.items():
            if began <= before and name not in self.given_up:
                self.given_up[name] = reason
                task.cancel()

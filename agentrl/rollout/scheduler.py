"""Many episodes at once, in bounded number, with nothing lost and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from agentrl.errors import UsageError
from agentrl.rollout.admission import Admission
from agentrl.rollout.cohorts import Cohorts, Stragglers, surplus
from agentrl.rollout.episode import EpisodeRunner
from agentrl.task import Task
from agentrl.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Job:
    """An episode to be played; the arguments of :meth:`agentrl.rollout.EpisodeRunner.run`.

    ``group_size`` jobs share a group's name; they should follow each other, since episodes with rewards
    per group are held back until the last of their group has ended.

    ``enough`` of them make the group: once so many have ended, void ones not counted, the others are given
    up. That favours short episodes, so it is off by default. Rewards per group judge the first that ended.
    """

    task: Task
    episode_id: str
    group: str = ""
    step: int = 0
    split: str = "train"
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    group_size: int = 1
    enough: int | None = None

    @property
    def wanted(self) -> int:
        """Episodes that make the group complete."""
        return self.group_size if self.enough is None else min(self.enough, self.group_size)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far :func:`run_episodes` is.

    Args:
        done: episodes that have ended, the void ones included.
        void: episodes that infrastructure kept from ending.
        running: episodes under way.
        given_up: episodes that their group does without: surplus ones; none of ``done``.
    """

    done: int = 0
    void: int = 0
    running: int = 0
    given_up: int = 0


async def run_episodes(
    runner: EpisodeRunner,
    jobs: Iterable[Job] | AsyncIterable[Job],
    *,
    concurrency: int | Admission,
    on_result: Callable[[Job, Trajectory], None],
    on_progress: Callable[[Progress], None] | None = None,
    stragglers: Stragglers | None = None,
) -> Progress:
    """Play episodes, at most ``concurrency`` at once.

    Args:
        runner: plays them.
        jobs: taken one by one as places become free; may be endless or lazy. An asynchronous source may
            make the crew wait: so does one that keeps to a bound on staleness.
        concurrency: at least 1; or an admission that goes by what is measured.
        on_result: given every episode as soon as it has ended; with rewards per group, as soon as its
            group has. One that was given up is void, and its reason begins with ``surplus`` or ``straggler``.
        on_progress: told whenever an episode began or ended.
        stragglers: when the last of a group are given up; by default never.

    Returns:
        How many were played.

    Raises:
        ValueError: jobs ended before a group was complete.
        UsageError: the first that an episode raised. The other episodes are cancelled and have
            cleaned up by then; results already given stay good.
    """
    admission = concurrency if isinstance(concurrency, Admission) else Admission(concurrency)
    crew = _Crew(runner, admission, on_result, on_progress or (lambda progress: None), stragglers)
    problem = await crew.play(jobs)
    if problem is not None:
        raise problem
    crew.check()
    return crew.progress


class _Crew:
    """Plays jobs, each in a task of its own."""

    def __init__(
        self,
        runner: EpisodeRunner,
        admission: Admission,
        on_result: Callable[[Job, Trajectory], None],
        on_progress: Callable[[Progress], None],
        stragglers: Stragglers | None,
    ) -> None:
        self.progress = Progress()
        self._runner, self._admission, self._cohorts = runner, admission, Cohorts(stragglers)
        self._on_result, self._on_progress = on_result, on_progress
        self._held: dict[str, Job] = {}

    async def play(self, jobs: Iterable[Job] | AsyncIterable[Job]) -> BaseException | None:
        """All of them; returns what ended it early, a :class:`UsageError` rather than anything else."""
        following = aiter(jobs if isinstance(jobs, AsyncIterable) else _asynchronous(jobs))
        try:
            async with asyncio.TaskGroup() as tasks:
                while (job := await self._next(following)) is not None:
                    self._advance(running=1)
                    task = tasks.create_task(self._work(job))
                    task.add_done_callback(lambda _: self._admission.leave())  # even if it never began
                    await asyncio.sleep(0)  # a source that never waits must not keep episodes from ending
        except BaseExceptionGroup as problems:
            return min(problems.exceptions, key=lambda problem: not isinstance(problem, UsageError))
        finally:
            self._cohorts.close()
            if isinstance(following, AsyncGenerator):
                await following.aclose()
        return None

    def check(self) -> None:
        """Raise if an episode still waits for others of its group."""
        if self._held:
            job = next(iter(self._held.values()))
            raise ValueError(f"The jobs ended before group {job.group!r} had its {job.group_size} episodes.")

    async def _next(self, following: AsyncIterator[Job]) -> Job | None:
        """The next job that is still wanted, with a place for it; ``None`` after the last."""
        await self._admission.enter()
        try:
            async for job in following:
                if self._cohorts.needs(job):
                    return job
                self._drop(job, surplus(job))
        except BaseException:
            self._admission.leave()
            raise
        self._admission.leave()
        return None

    async def _work(self, job: Job) -> None:
        self._cohorts.begin(job)
        try:
            trajectory = await self._play(job)
        finally:
            self._advance(running=-1)
        counts = self._cohorts.end(job, trajectory)
        reason = self._cohorts.given_up.pop(job.episode_id, None)
        if counts:
            self._held[trajectory.id] = job
            ended = await self._runner.gather(trajectory, size=job.wanted, step=job.step, split=job.split)
        elif trajectory.status == "void" and reason is None:
            ended = [self._runner.set_apart(trajectory, step=job.step, split=job.split)]
            self._held[trajectory.id] = job
        else:
            self._drop(job, reason or surplus(job))
            return
        for episode in ended:
            self._on_result(self._held.pop(episode.id), episode)
            self._advance(done=1, void=int(episode.status == "void"))

    async def _play(self, job: Job) -> Trajectory:
        """Its trajectory; a void one if it was given up meanwhile."""
        try:
            return await self._runner.run(
                job.task,
                episode_id=job.episode_id,
                group=job.group,
                step=job.step,
                split=job.split,
                seed=job.seed,
                temperature=job.temperature,
                top_p=job.top_p,
            )
        except asyncio.CancelledError:
            reason, task = self._cohorts.given_up.get(job.episode_id), asyncio.current_task()
            if reason is None or task is None or task.uncancel() > 0:
                raise
            return self._abandoned(job, reason)

    def _drop(self, job: Job, reason: str) -> None:
        """Report an episode that its group does without."""
        self._on_result(job, self._abandoned(job, reason))
        self._advance(given_up=1)

    def _abandoned(self, job: Job, reason: str) -> Trajectory:
        return Trajectory(job.task, job.episode_id, job.group, status="void", reason=reason)

    def _advance(self, *, done: int = 0, void: int = 0, running: int = 0, given_up: int = 0) -> None:
        old = self.progress
        self.progress = Progress(
            old.done + done, old.void + void, old.running + running, old.given_up + given_up
        )
        self._on_progress(self.progress)


async def _asynchronous(jobs: Iterable[Job]) -> AsyncIterator[Job]:
    for job in jobs:
        yield job

"""Many episodes at once, in bounded number, with nothing lost and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from agentrl.errors import UsageError
from agentrl.rollout.episode import EpisodeRunner
from agentrl.rollout.waiting import all_of
from agentrl.task import Task
from agentrl.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class Job:
    """An episode to be played; the arguments of :meth:`agentrl.rollout.EpisodeRunner.run`.

    ``group_size`` jobs share a group's name; they should follow each other, since episodes with rewards
    per group are held back until the last of their group has ended.
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


@dataclass(frozen=True, slots=True)
class Progress:
    """How far :func:`run_episodes` is.

    Args:
        done: episodes that have ended, the void ones included.
        void: episodes that infrastructure kept from ending.
        running: episodes under way.
    """

    done: int = 0
    void: int = 0
    running: int = 0


async def run_episodes(
    runner: EpisodeRunner,
    jobs: Iterable[Job],
    *,
    concurrency: int,
    on_result: Callable[[Job, Trajectory], None],
    on_progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Play episodes, at most ``concurrency`` at once.

    Args:
        runner: plays them.
        jobs: taken one by one as places become free; may be endless or lazy.
        concurrency: at least 1.
        on_result: given every episode as soon as it has ended; with rewards per group, as soon as its
            group has.
        on_progress: told whenever an episode began or ended.

    Returns:
        How many were played.

    Raises:
        ValueError: jobs ended before a group was complete.
        UsageError: the first that an episode raised. The other episodes are cancelled and have
            cleaned up by then; results already given stay good.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency={concurrency}: at least one episode must be allowed to run.")
    crew = _Crew(runner, iter(jobs), on_result, on_progress or (lambda progress: None))
    await all_of(
        [crew.work() for _ in range(concurrency)],
        rank=lambda problem: 0 if isinstance(problem, UsageError) else 1,
    )
    crew.check()
    return crew.progress


class _Crew:
    """Workers that share the jobs."""

    def __init__(
        self,
        runner: EpisodeRunner,
        jobs: Iterator[Job],
        on_result: Callable[[Job, Trajectory], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.progress = Progress()
        self._runner, self._jobs = runner, jobs
        self._on_result, self._on_progress = on_result, on_progress
        self._held: dict[str, Job] = {}

    async def work(self) -> None:
        for job in self._jobs:
            self._advance(running=1)
            trajectory = await self._runner.run(
                job.task,
                episode_id=job.episode_id,
                group=job.group,
                step=job.step,
                split=job.split,
                seed=job.seed,
                temperature=job.temperature,
                top_p=job.top_p,
            )
            self._held[trajectory.id] = job
            self._advance(running=-1, done=0)
            ended = await self._runner.gather(trajectory, size=job.group_size, step=job.step, split=job.split)
            for episode in ended:
                self._on_result(self._held.pop(episode.id), episode)
                self._advance(done=1, void=int(episode.status == "void"))
            await asyncio.sleep(0)  # episodes that never wait must not keep the others from starting

    def check(self) -> None:
        """Raise if an episode still waits for others of its group."""
        if self._held:
            job = next(iter(self._held.values()))
            raise ValueError(f"The jobs ended before group {job.group!r} had its {job.group_size} episodes.")

    def _advance(self, *, done: int = 0, void: int = 0, running: int = 0) -> None:
        old = self.progress
        self.progress = Progress(old.done + done, old.void + void, old.running + running)
        self._on_progress(self.progress)

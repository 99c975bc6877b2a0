"""Plays every task a number of times and counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.evaluate.result import EpisodeResult, EvalResult
from agentrl.events import EvalFinished, EventSink, NullSink
from agentrl.rollout import Admission, EpisodeRunner, Job, Load, Policy, episode_seed, run_episodes, succeeded
from agentrl.rollout.control_part import Control
from agentrl.task import Task
from agentrl.trajectory import Trajectory

if TYPE_CHECKING:
    from agentrl.chat import Chat
    from agentrl.sandbox import Sandbox

OnEpisode = Callable[[EpisodeResult, Trajectory], None]


async def evaluate(
    env: Env,
    chat: Chat,
    policy: Policy,
    limits: Rollout,
    tasks: Sequence[Task],
    *,
    samples: int = 1,
    split: str = "test",
    seed: int = 0,
    temperature: float | None = None,
    sandbox: Sandbox | None = None,
    events: EventSink | None = None,
    on_episode: OnEpisode | None = None,
    control: Control | None = None,
) -> EvalResult:
    """Measure a policy on tasks, with the loop that training uses.

    Args:
        env: the environment.
        chat: the chat format of the policy's model.
        policy: what is sampled from.
        limits: limits and sampling of an episode; ``concurrency`` episodes run at once.
        tasks: each is played ``samples`` times.
        samples: episodes per task.
        split: for the events.
        seed: decides the seed of every episode, so a repeated evaluation draws the same where
            the engine can.
        temperature: instead of the limits'.
        sandbox: where tools open sessions; ``None`` for environments that need none.
        events: where events go; an :class:`agentrl.events.EvalFinished` ends them.
        on_episode: given each episode as it ends, in no particular order.
        control: what is done to episodes while they are played; ``None``: nothing.

    Raises:
        ConfigError: there are no tasks, or ``samples`` is below 1.
        InfrastructureError: every episode was void, so nothing was measured.
        UsageError: a tool, the environment, a reward or a setting is at fault.
    """
    if not tasks:
        raise ConfigError(
            f"Environment {env.name} has no tasks in split {split!r}, so there is nothing to measure."
        )
    if samples < 1:
        raise ConfigError(f"eval.samples={samples}: every task needs at least one episode.")
    sink = events or NullSink()
    load = Load()
    runner = EpisodeRunner(
        env, chat, policy, limits, sandbox=sandbox, events=sink, control=control, load=load
    )
    results: list[EpisodeResult] = []

    def keep(job: Job, trajectory: Trajectory) -> None:
        position, sample = (int(part) for part in job.episode_id.rsplit("-", 2)[1:])
        result = EpisodeResult.of(trajectory, position, sample, succeeded(env, trajectory))
        results.append(result)
        if on_episode is not None:
            on_episode(result, trajectory)

    now = asyncio.get_running_loop().time
    started = now()
    jobs = _jobs(tasks, samples, split, seed, temperature)
    await run_episodes(runner, jobs, concurrency=Admission.of(limits, load), on_result=keep)
    found = EvalResult.of(results, samples, now() - started)
    sink.emit(EvalFinished(0, found.success, found.low, found.high, found.episodes, found.reward))
    return found


def _jobs(
    tasks: Sequence[Task], samples: int, split: str, seed: int, temperature: float | None
) -> Iterator[Job]:
    for position, task in enumerate(tasks):
        for sample in range(samples):
            yield Job(
                task,
                f"eval-{position}-{sample}",
                group=f"eval-{position}",
                split=split,
                seed=episode_seed(seed, task.id, sample),
                temperature=temperature,
                group_size=samples,
            )

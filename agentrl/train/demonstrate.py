"""Demonstrations: episodes of the ordinary loop in which an environment's expert speaks for the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.errors import DefinitionError, InfrastructureError
from agentrl.observation import Picture
from agentrl.rollout import EpisodeRunner, Job, ScriptedPolicy, episode_seed, run_episodes
from agentrl.task import Task
from agentrl.trajectory import Trajectory

if TYPE_CHECKING:
    from agentrl.chat import Chat
    from agentrl.sandbox import Sandbox

CONCURRENCY = 8
MOST_VOID = 0.1
"""The share of episodes that machines may fail."""


class Example(NamedTuple):
    """A training row: token ids, whether the expert sampled each, and what the placeholders stand for."""

    ids: list[int]
    sampled: list[bool]
    pictures: Sequence[Picture] = ()


async def demonstrate(
    env: Env,
    chat: Chat,
    count: int,
    *,
    seed: int,
    limits: Rollout | None = None,
    sandbox: Sandbox | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Trajectory]:
    """Play ``count`` episodes of the ``train`` tasks, each task as often as it takes.

    Args:
        env: has an expert.
        chat: the format that the expert's messages are written in.
        seed: decides the expert's choices; the same seed gives the same episodes in the same order.
        limits: by default the loop's own; an episode they cut off is not demonstrated.
        sandbox: where tools open sessions; ``None`` if they need none.
        progress: told how many episodes have ended.

    Returns:
        The episodes that came to an end of their own.

    Raises:
        DefinitionError: the environment has no tasks or no expert, or no episode came to its end.
        UsageError: the expert, a tool or a reward failed.
        InfrastructureError: machines failed more than a tenth of the episodes.
    """
    tasks = list(env.tasks("train"))
    if not tasks:
        raise DefinitionError(f"Environment {env.name} has no train tasks, so nothing can be demonstrated.")
    runner = EpisodeRunner(env, chat, ScriptedPolicy(chat), limits or Rollout(), sandbox=sandbox)
    played = await _play(runner, _jobs(tasks, count, seed), progress)
    void = [trajectory for trajectory in played if trajectory.status == "void"]
    if len(void) > MOST_VOID * count:
        raise InfrastructureError(
            f"Machines failed {len(void)} of {count} demonstrations of {env.name}, the last one "
            f"thus: {void[-1].reason}."
        )
    finished = [trajectory for trajectory in played if trajectory.status == "finished"]
    if not finished:
        raise DefinitionError(
            f"No demonstration of {env.name} came to its end; the last: {played[-1].reason}. "
            "Shorten what the expert says, or raise the limits."
        )
    return finished


def examples(trajectories: Sequence[Trajectory], longest: int) -> list[Example]:
    """The training rows of ``trajectories`` that have at most ``longest`` tokens.

    Raises:
        DefinitionError: there are none.
    """
    rows: list[Example] = []
    for trajectory in trajectories:
        for sample in trajectory.samples():
            ids = [*sample.prompt_ids, *sample.response_ids]
            if len(ids) <= longest:
                rows.append(Example(ids, [False] * len(sample.prompt_ids) + sample.mask, sample.images))
    if not rows:
        raise DefinitionError(
            f"Every demonstration is longer than {longest} tokens, which this model cannot hold."
        )
    return rows


def _jobs(tasks: Sequence[Task], count: int, seed: int) -> Iterator[Job]:
    for number in range(count):
        task, turn = tasks[number % len(tasks)], number // len(tasks)
        yield Job(task, f"demonstration-{number}", seed=episode_seed(seed, task.id, turn))


async def _play(
    runner: EpisodeRunner, jobs: Iterator[Job], progress: Callable[[int], None] | None
) -> list[Trajectory]:
    played: dict[int, Trajectory] = {}

    def keep(job: Job, trajectory: Trajectory) -> None:
        played[int(job.episode_id.rpartition("-")[2])] = trajectory
        if progress is not None:
            progress(len(played))

    await run_episodes(runner, jobs, concurrency=CONCURRENCY, on_result=keep)
    return [played[number] for number in sorted(played)]

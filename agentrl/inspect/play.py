"""Scripts played through the ordinary loop, on tasks drawn at random."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.evaluate import EvalResult, evaluate
from agentrl.inspect.plain import plain_chat
from agentrl.rollout import Script, ScriptedPolicy
from agentrl.rollout.toolbox import user_code
from agentrl.task import Task

if TYPE_CHECKING:
    from agentrl.evaluate.evaluate import OnEpisode
    from agentrl.sandbox import Sandbox

CONCURRENCY = 8
MOST_TASKS = 20_000
"""Of a split, what is looked at."""


def first_tasks(env: Env, split: str) -> list[Task]:
    """The tasks of a split, at most :data:`MOST_TASKS`.

    Raises:
        UserCodeError: ``tasks`` raised.
    """
    with user_code(f"Environment {env.name}: tasks({split!r})"):
        return list(itertools.islice(iter(env.tasks(split)), MOST_TASKS))


def sample(env: Env, split: str, count: int, seed: int) -> list[Task]:
    """``count`` tasks of a split, or all if there are fewer; the same for the same seed.

    Raises:
        ConfigError: there are none, or ``count`` is below 1.
    """
    if count < 1:
        raise ConfigError(f"{count} tasks are too few; take at least 1.")
    tasks = first_tasks(env, split)
    if not tasks:
        raise ConfigError(f"Environment {env.name} has no tasks in split {split!r}.")
    return random.Random(seed).sample(tasks, min(count, len(tasks)))


def has_expert(env: Env, task: Task) -> bool:
    """Whether there is an expert to play."""
    try:
        return env.expert(task, random.Random(0)) is not None
    except Exception:  # whatever a user's code raises: playing it tells what is wrong
        return True


async def play(
    env: Env,
    script: Script,
    tasks: list[Task],
    limits: Rollout,
    *,
    seed: int = 0,
    sandbox: Sandbox | None = None,
    on_episode: OnEpisode | None = None,
) -> EvalResult:
    """Play a script once on each task.

    Args:
        limits: in bytes, see :func:`agentrl.inspect.plain.in_bytes`.

    Raises:
        AgentRLError: as :func:`agentrl.evaluate.evaluate`.
    """
    chat = plain_chat()
    few = limits.model_copy(update={"concurrency": min(limits.concurrency, CONCURRENCY)})
    return await evaluate(
        env,
        chat,
        ScriptedPolicy(chat, script),
        few,
        tasks,
        seed=seed,
        sandbox=sandbox,
        on_episode=on_episode,
    )

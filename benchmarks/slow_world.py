"""An environment whose world takes its time: what the benchmark of asynchronous training plays.

After the model's first turn the world answers, after a time drawn from a log-normal distribution of mean 2 s
with a tail cut at 10 s; after its second turn the episode ends. The times are a function of the
task and of how often it was played, so that every run waits for the same ones.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Iterator

from agentrl import Env, Task, Trajectory, reward

MEAN_SECONDS, SIGMA, LONGEST_SECONDS = 2.0, 0.8, 10.0
_MU = math.log(MEAN_SECONDS) - SIGMA**2 / 2

_played: Counter[str] = Counter()


def waiting_time(task: str, number: int) -> float:
    """Seconds the world takes in the ``number``-th episode of a task."""
    return min(LONGEST_SECONDS, random.Random(f"{task}/{number}").lognormvariate(_MU, SIGMA))


class SlowWorld(Env):
    """Rewards digits, and answers late."""

    prompt = "Say a number."

    def tasks(self, split: str) -> Iterator[Task]:
        """512 tasks that differ in name alone."""
        for number in range(512):
            yield Task(f"Say a number above {number}.", answer=number)

    async def reset(self, task: Task) -> None:
        """Draw the episode's waiting time."""
        self._replies = 0
        _played[task.id] += 1
        self._seconds = waiting_time(task.id, _played[task.id])

    async def reply(self, text: str) -> str | None:
        """Let the model wait once, then end."""
        self._replies += 1
        if self._replies > 1:
            return None
        await asyncio.sleep(self._seconds)
        return "Another one."

    @reward
    def digits(self, episode: Trajectory) -> float:
        """The share of digits in what was said."""
        text = "".join(turn.raw for turn in episode.turns)
        return sum(character.isdigit() for character in text) / max(1, len(text))

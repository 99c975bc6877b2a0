"""An environment of sums, the embedded policy's chat format, and limits that wait for nothing."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

from agentrl import Env, SessionLost, Task, Trajectory, reward, tool
from agentrl.chat import Chat
from agentrl.config import Rollout
from agentrl.events import Event


@functools.cache
def make_chat() -> Chat:
    from agentrl.train import tiny

    return tiny.chat(tiny.make_tokenizer())


def make_limits(**changes: Any) -> Rollout:
    return Rollout(**{"retry_seconds": 0.0, "retries": 1, "concurrency": 8, **changes})


class Sums(Env):
    """Adds; every third task's expert is wrong, and tasks in ``broken`` lose their machine."""

    broken: frozenset[str] = frozenset()

    def tasks(self, split: str) -> Iterator[Task]:
        for n in range(9):
            yield Task(f"{n} + 1?", answer=str(n + 1), id=f"sum-{n}", metadata={"n": n})

    async def reset(self, task: Task) -> None:
        self.task, self.said = task, ""

    @tool
    def add(self, a: int, b: int) -> str:
        """Add two numbers."""
        if self.task.id in self.broken:
            raise SessionLost("the machine went away")
        return str(a + b)

    @tool
    def submit(self, answer: str) -> str:
        """Submit the answer."""
        self.said = answer
        return "Thanks."

    @reward
    def right(self, episode: Trajectory) -> float:
        return float(self.said == self.task.answer)

    def expert(self, task: Task, rng: random.Random) -> Any:
        n = task.metadata["n"]
        [total] = yield call("add", a=n, b=1)
        yield call("submit", answer="wrong" if n % 3 == 0 else total)
        yield {"role": "assistant", "content": "Done."}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


class Recorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

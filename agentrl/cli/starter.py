"""A tool and an environment of your own.

Look at what the model will see:      agentrl envs show ./my_env.py
Train a model on it:                  agentrl train ./my_env.py
Measure any model on it:              agentrl eval ./my_env.py model=FOLDER
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator

from agentrl import Env, Message, Task, ToolError, Trajectory, reward, tool


@tool
def convert(amount: float, unit: str) -> str:
    """Convert a length to metres.

    Args:
        amount: how many.
        unit: the unit it is in, "feet" or "miles".
    """
    metres = {"feet": 0.3048, "miles": 1609.344}
    if unit not in metres:
        raise ToolError(f"I know feet and miles, not {unit!r}.")  # the model reads this and goes on
    return f"{amount * metres[unit]:.2f}"


class Lengths(Env):
    """Questions about lengths that the tool answers."""

    prompt = "Call convert, then submit what it answers."
    tools = (convert,)

    def tasks(self, split: str) -> Iterator[Task]:
        """The same tasks on every call; ``train`` and ``test`` share none."""
        rng = random.Random(f"lengths {split}")
        for _ in range(512 if split == "train" else 128):
            amount = rng.randrange(1, 90) * 2 + (split == "train")
            unit = rng.choice(["feet", "miles"])
            yield Task(f"How many metres are {amount} {unit}?", answer=convert(amount, unit))

    async def reset(self, task: Task) -> None:
        """Each episode has its own instance: state goes on ``self``."""
        self.answer: str = task.answer
        self.submitted: str | None = None

    @tool
    def submit(self, metres: str) -> str:
        """Submit the answer; only the first one counts."""
        if self.submitted is None:
            self.submitted = metres
        return "Thank you."

    @reward
    def correct(self, episode: Trajectory) -> float:
        """1 if the submitted number is right."""
        return float(self.submitted == self.answer)

    def expert(self, task: Task, rng: random.Random) -> Generator[Message, list[str], None]:
        """How to do it: warm-up teaches a model the form from this. Leave it out if it can be prompted."""
        words = task.prompt.rstrip("?").split()
        answers = yield call("convert", amount=int(words[-2]), unit=words[-1])
        yield call("submit", metres=answers[0])
        yield {"role": "assistant", "content": "Done."}


def call(name: str, **arguments: object) -> Message:
    """A message that calls one tool."""
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}

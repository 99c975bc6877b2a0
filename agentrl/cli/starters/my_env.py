"""An environment of your own: tasks, a tool, a reward.

Look at what the model will see:      agentrl envs show ./my_env.py
Play the model's part:                agentrl envs play ./my_env.py
Check it, and try to cheat it:        agentrl envs check ./my_env.py
                                      agentrl envs audit ./my_env.py
Train a model on it:                  agentrl train ./my_env.py
Measure any model on it:              agentrl eval ./my_env.py model=FOLDER
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from agentrl import Env, Expert, Task, ToolError, Trajectory, call, reward, say, tool

METRES = {"feet": 0.3048, "miles": 1609.344}


class MyEnv(Env):
    """Questions about lengths that a tool answers."""

    prompt = "Call convert, then answer with the number alone."
    success = "correct"

    def tasks(self, split: str) -> Iterator[Task]:
        """The same tasks on every call; ``train`` and ``test`` share none."""
        rng = random.Random(f"lengths {split}")
        for number in range(512 if split == "train" else 128):
            amount = 2 * number + 101 + (split == "train")
            unit = rng.choice(sorted(METRES))
            answer = f"{amount * METRES[unit]:.2f}"
            yield Task(f"How many metres are {amount} {unit}?", answer=answer)

    async def reset(self, task: Task) -> None:
        """Each episode has an instance of its own: its state goes on ``self``."""
        self.converted = 0

    @tool
    def convert(self, amount: float, unit: str) -> str:
        """Convert a length to metres.

        Args:
            amount: how many.
            unit: the unit it is in, feet or miles.
        """
        if unit not in METRES:
            raise ToolError(
                f"I know {' and '.join(METRES)}, not {unit!r}."
            )  # the model reads this and goes on
        self.converted += 1
        return f"{amount * METRES[unit]:.2f}"

    @reward
    def correct(self, episode: Trajectory) -> float:
        """1 if the answer is the right number."""
        return float(episode.final_text.strip() == episode.task.answer)

    @reward(weight=0)  # logged only
    def conversions(self, episode: Trajectory) -> float:
        """How often the tool was used."""
        return float(self.converted)

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """How to do it: warm-up teaches a model the form from this. Leave it out if it can be prompted."""
        *_, amount, unit = task.prompt.rstrip("?").split()
        [answer] = yield call("convert", amount=int(amount), unit=unit)
        yield say(answer)

"""What environments have in common that another simulator steps: seeds as tasks, an opening, a score."""

from __future__ import annotations

from agentrl import ConfigError, Env, Message, Task, Template, Trajectory, Turn, reward

TEST_SIZE = 256
"""Tasks of the test split at most."""


class Stepping(Env):
    """An environment that a simulator plays: each task is a seed of it.

    A subclass starts its simulator in ``reset``, sets :attr:`opening`, and offers a tool that takes a step
    and answers with the step's reward under ``reward`` in the observation's metadata.

    Args:
        instruction: the user's message, before the first observation.
        prompt: the system prompt, a Jinja template or its file.
        size: tasks of the train split; the test split has a quarter of it, at most 256.
        seed: other seeds make other tasks.

    Raises:
        ConfigError: an option does not fit.
    """

    success = "score"

    def __init__(self, instruction: str, prompt: str | None, size: int, seed: int) -> None:
        super().__init__(prompt=None if prompt is None else Template(prompt))
        if size < 4 or seed < 0:
            raise ConfigError(f"size={size} must be at least 4, and seed={seed} at least 0.")
        self.instruction, self.size, self.seed = instruction, size, seed
        self.opening: str | None = None

    def tasks(self, split: str) -> list[Task]:
        """One task per seed; no seed stands in both splits.

        Raises:
            ConfigError: the split is unknown.
        """
        if split not in ("train", "test"):
            raise ConfigError(f"There is no split {split!r}; there are 'train' and 'test'.")
        count = self.size if split == "train" else min(TEST_SIZE, self.size // 4)
        seeds = range(2 * self.seed * self.size, 2 * (self.seed + 1) * self.size, 2)[:count]
        return [
            Task(self.instruction, id=f"{split}-{number}", metadata={"seed": number})
            for number in (seed + (split == "test") for seed in seeds)
        ]

    def messages(self, task: Task) -> list[Message]:
        """The prompt and the instruction; in an episode also what the simulator shows first."""
        *before, user = super().messages(task)
        shown = [text for text in (user["content"], self.opening) if text]
        return [*before, {**user, "content": "\n\n".join(shown)}]

    @reward(per="turn")
    def score(self, episode: Trajectory, turn: Turn) -> float:
        """The simulator's rewards for the turn's steps."""
        return float(sum(call.observation.metadata.get("reward", 0.0) for call in turn.calls))

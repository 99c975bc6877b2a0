r"""Mathematics with a Python interpreter: arithmetic made up as needed, or GSM8K.

The model is paid for the right number in ``\boxed{}``, however it came by it.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import Literal

from agentrl import ConfigError, Env, Expert, Message, Splits, Task, Term, call, say, split_size
from agentrl.envs.math import problems
from agentrl.envs.math.families import FAMILIES, draw
from agentrl.rewards.calls import failed_call, unfinished
from agentrl.rewards.math import correct, torl
from agentrl.tools.python import Python

TEST_SIZE = 512
SEEDS = 1 << 32
"""Seeds of one split. A question's seed is its split's and family's first one and its position."""

FAMILY_SEEDS = SEEDS // 6
"""Seeds between the first ones of two families. Families may share seeds; a family's splits do not."""


SHOTS = (
    ("Tom has 3 boxes of 12 pencils and gives 5 pencils away. How many are left?", "print(3 * 12 - 5)", "31"),
    ("A train covers 240 km in 3 hours. How far does it get in 5 hours?", "print(240 / 3 * 5)", "400.0"),
)
"""Solved examples: question, code, and what the code prints."""


class Math(Env):
    """Arithmetic problems, solved with the ``python`` tool.

    Args:
        families: names of :data:`agentrl.envs.math.families.FAMILIES`; by default
            :attr:`default_families`.
        difficulty: 1, 2 or 3: how long the numbers are.
        size: tasks of the train split; the test split has a quarter of it, at most 512.
        seed: of the questions. The test split does not depend on ``size`` beyond its length.
        data: instead of families, word problems: a folder, a file or a hub id. In GSM8K's form, unless
            columns are named.
        question_column, answer_column: what the columns of any other ``data`` are called (one that is not
            named is called as in GSM8K); its answers are numbers or formulas.
        on_bad_row: what to do about a malformed row of ``data``: ``stop`` or ``skip``.
        shots: solved examples that open the dialogue; by default one with ``data``, else none.
        reward: ``correct`` (1 or 0) or ``torl`` (1 or -1).
        error_penalty: taken off an episode in which a call failed, such as 0.5 as in ToRL.
        unfinished_penalty: taken off an episode that a limit ended, such as 0.25.

    Raises:
        ConfigError: an option does not fit.
    """

    prompt = r"Use python. Answer in \boxed{}."
    data_prompt = (
        "Solve the problem step by step. For every calculation call the python tool with code that "
        r"prints the result. When you know the answer, write it as a plain number in \boxed{}, "
        r"for example \boxed{42}."
    )
    tools = (Python(),)
    success = "correct"

    default_families = ("products", "chain_sum", "basic_arithmetic", "lcm")

    # What the scripted expert demonstrates. A policy warmed up on it knows the tool and the format
    # but has no good habits; finding out that calling the tool pays is left to training.
    expert_tool_rate = 0.35  # episodes that call python; the others answer at once
    expert_slip_rate = 0.1  # of those calls, how many compute something else
    expert_guess_rate = 0.1  # of the answers without the tool, how many are right

    def __init__(
        self,
        families: Sequence[str] | None = None,
        difficulty: int = 2,
        size: int = 2000,
        seed: int = 0,
        data: str | None = None,
        on_bad_row: Literal["stop", "skip"] = "stop",
        shots: int | None = None,
        question_column: str | None = None,
        answer_column: str | None = None,
        reward: Literal["correct", "torl"] = "correct",
        error_penalty: float = 0.0,
        unfinished_penalty: float = 0.0,
    ) -> None:
        rewards = _rewards(reward, error_penalty, unfinished_penalty)
        super().__init__(prompt=self.data_prompt if data else None, rewards=rewards)
        self.families = _checked_families(families if families is not None else self.default_families)
        if data and families is not None:
            raise ConfigError(f"data={data} and families= exclude each other; give one of them.")
        if difficulty not in (1, 2, 3):
            raise ConfigError(f"difficulty={difficulty!r} must be 1, 2 or 3.")
        if size < len(self.families) * 4:
            raise ConfigError(
                f"size={size} is too small for {len(self.families)} families; give at least 4 per family."
            )
        if on_bad_row not in ("stop", "skip"):
            raise ConfigError(f"on_bad_row={on_bad_row!r} must be 'stop' or 'skip'.")
        named = question_column is not None or answer_column is not None
        if named and not data:
            raise ConfigError(
                "question_column= and answer_column= name columns of data=, which is not given."
            )
        self.columns = problems.Columns(question_column or "question", answer_column or "answer", not named)
        self.difficulty, self.size, self.seed = difficulty, size, seed
        self.data, self.on_bad_row = data, on_bad_row
        self.shots = (1 if data else 0) if shots is None else shots
        if not 0 <= self.shots <= len(SHOTS):
            raise ConfigError(f"shots={shots!r} must be from 0 to {len(SHOTS)}.")
        self._splits = Splits(self._read if data else self._make)

    def messages(self, task: Task) -> list[Message]:
        """The prompt, the solved examples in the model's own call format, and the question."""
        opening = super().messages(task)
        examples = [message for shot in SHOTS[: self.shots] for message in shown(*shot)]
        return [*opening[:-1], *examples, opening[-1]]

    def tasks(self, split: str) -> list[Task]:
        """The tasks of ``train`` or ``test``, made or read once; no prompt stands in both.

        Raises:
            ConfigError: the split is unknown, or the families have too few questions.
            DataError: ``data`` cannot be read.
        """
        return self._splits(split)

    def expert(self, task: Task, rng: random.Random) -> Expert | None:
        """Demonstrations for the made-up families; see the rates above. None for ``data``."""
        if "family" not in task.metadata:
            return None
        return self._demonstrate(task, rng)

    def _read(self, split: str, _: set[Hashable]) -> list[Task]:
        return problems.load(str(self.data), split, self.on_bad_row, self.columns)

    def _make(self, split: str, used: set[Hashable]) -> list[Task]:
        count, rest = divmod(split_size(split, self.size, TEST_SIZE), len(self.families))
        tasks: list[Task] = []
        for position, family in enumerate(self.families):
            offset = list(FAMILIES).index(family) * FAMILY_SEEDS
            first = (2 * self.seed + (split == "test")) * SEEDS + offset
            tasks += draw(family, self.difficulty, first, count + (position < rest), used)
        random.Random(self.seed).shuffle(tasks)
        return tasks

    def _demonstrate(self, task: Task, rng: random.Random) -> Expert:
        if rng.random() >= self.expert_tool_rate:
            right = rng.random() < self.expert_guess_rate
            yield _boxed(str(task.answer) if right else guess(str(task.answer), rng))
            return
        family = FAMILIES[task.metadata["family"]]
        write = family.slip if rng.random() < self.expert_slip_rate else family.code
        shown = yield call("python", code=write(task.prompt))
        yield _boxed(shown[-1].strip())


OUTCOMES = {"correct": correct, "torl": torl}


def _rewards(outcome: str, error_penalty: float, unfinished_penalty: float) -> list[Term]:
    if outcome not in OUTCOMES:
        raise ConfigError(f"reward={outcome!r} must be {' or '.join(map(repr, OUTCOMES))}.")
    penalties = {"error_penalty": error_penalty, "unfinished_penalty": unfinished_penalty}
    for name, value in penalties.items():
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{name}={value!r} is taken off, so it must be 0 or more.")
    rewards: list[Term] = [OUTCOMES[outcome]]
    if error_penalty:
        rewards.append(-error_penalty * failed_call)
    if unfinished_penalty:
        rewards.append(-unfinished_penalty * unfinished)
    return rewards


def guess(answer: str, rng: random.Random) -> str:
    """A number of the same sign and length that shares the leading digit, as a rough estimate would."""
    sign, digits = ("-", answer[1:]) if answer.startswith("-") else ("", answer)
    if len(digits) == 1:
        return sign + str(rng.randint(1, 9))
    return sign + digits[0] + "".join(str(rng.randint(0, 9)) for _ in digits[1:])


def shown(question: str, code: str, printed: str) -> list[Message]:
    """A solved example as a dialogue."""
    asked = call("python", code=code)
    asked["tool_calls"][0]["id"] = "example"
    result: Message = {"role": "tool", "tool_call_id": "example", "name": "python", "content": printed}
    return [{"role": "user", "content": question}, asked, result, _boxed(printed.removesuffix(".0"))]


def _boxed(content: str) -> Message:
    return say(rf"\boxed{{{content}}}")


def _checked_families(names: Sequence[str]) -> tuple[str, ...]:
    chosen = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in chosen if name not in FAMILIES]
    if unknown or not chosen:
        what = f"There is no family {unknown[0]!r}" if unknown else "families= is empty"
        raise ConfigError(f"{what}; known: {', '.join(sorted(FAMILIES))}.")
    return tuple(dict.fromkeys(chosen))

"""Questions that one SQL statement answers: about a built-in database of countries, or Spider's.

The model may look at the database and try statements; it is paid for a final statement whose rows are right.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Literal

from agentrl import ConfigError, Env, Expert, Message, Splits, Task, Trajectory, call, reward, say, split_size
from agentrl.envs.levels import chosen_kinds
from agentrl.envs.sql import facts, spider
from agentrl.envs.sql.questions import FORMS, draw
from agentrl.rewards.sql import MOST_DATABASES, execution_match, extract_sql
from agentrl.tools.sql import Sql as SqlTool

TEST_SIZE = 256


class Sql(Env):
    """Questions about SQLite databases, answered by a statement in a fenced block.

    Args:
        difficulty: 1 (one table), 2 (joins, orders) or 3 (groups, nested statements).
        forms: instead, names of :data:`agentrl.envs.sql.questions.FORMS`.
        size: built-in tasks of the train split; the test split has a quarter of it, at most 256.
        seed: of the built-in questions.
        data: instead of them, questions in Spider's form: a folder, a file or a hub id.
        databases: for ``data``, the folder that holds ``<db_id>/<db_id>.sqlite``; by default ``database``
            beside the rows. What comes from the hub has none, so it must be given.
        on_bad_row: what to do about a malformed row of ``data``: ``stop`` or ``skip``.
        bad_format: the reward of an answer without a statement.
        seconds: for a statement, of the tool's and of the reward's.
        expert_rate: how often the expert knows the statement; else it answers with that of another question.
        ignore_distinct: judge as if DISTINCT stood nowhere, as the suite's published figures do.

    Raises:
        ConfigError: an option does not fit, or the built-in facts are not installed.
    """

    name = "sql"
    prompt = (
        "Answer with one SQL statement for SQLite in a block:\n```sql\nSELECT ...\n```\n"
        "Call sql without arguments to see the schema, or with a query to try it."
    )
    success = "correct"

    def __init__(
        self,
        difficulty: int = 2,
        forms: Sequence[str] | None = None,
        size: int = 2000,
        seed: int = 0,
        data: str | None = None,
        databases: str | None = None,
        on_bad_row: Literal["stop", "skip"] = "stop",
        bad_format: float = 0.0,
        seconds: float = 10.0,
        ignore_distinct: bool = False,
        expert_rate: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= expert_rate <= 1:
            raise ConfigError(f"expert_rate={expert_rate} must be from 0 to 1.")
        if data and forms is not None:
            raise ConfigError(f"data={data} and forms= exclude each other; give one of them.")
        if databases and not data:
            raise ConfigError(f"databases={databases} is for data=, which is not given.")
        if on_bad_row not in ("stop", "skip"):
            raise ConfigError(f"on_bad_row={on_bad_row!r} must be 'stop' or 'skip'.")
        self.forms = chosen_kinds(FORMS, difficulty, forms, one="form", option="forms")
        if size < len(self.forms) * 4:
            raise ConfigError(
                f"size={size} is too small for {len(self.forms)} forms; give at least 4 per form."
            )
        self.size, self.seed, self.data, self.on_bad_row = size, seed, data, on_bad_row
        self.expert_rate = expert_rate
        self.bad_format, self.seconds, self.ignore_distinct = bad_format, seconds, ignore_distinct
        self.folder = spider.folder(data, databases) if data else facts.folder()
        self.tools = (SqlTool(folder=str(self.folder), seconds=seconds),)
        self._splits = Splits(self._read if data else self._make)

    def tasks(self, split: str) -> list[Task]:
        """The tasks of ``train`` or ``test``, made or read once; no question stands in both.

        Raises:
            ConfigError: the split is unknown, or the forms have too few questions.
            DataError: ``data`` cannot be read.
        """
        return self._splits(split)

    def _read(self, split: str, _: set[Hashable]) -> list[Task]:
        return spider.load(str(self.data), self.folder, split, self.on_bad_row)

    def _make(self, split: str, used: set[Hashable]) -> list[Task]:
        size = split_size(split, self.size, TEST_SIZE)
        rng = random.Random(f"{self.seed} {split}")
        tasks = list(draw(self.forms, self.folder, rng, size, used))
        rng.shuffle(tasks)
        return tasks

    @reward
    async def correct(self, episode: Trajectory) -> float:
        """1.0 if the final statement gives the rows of ``task.answer`` on all databases of the task, else
        0.0; or ``bad_format`` where there is none."""
        statement = extract_sql(episode.final_text)
        if statement is None:
            return self.bad_format
        verdict = await execution_match(
            self.context,
            statement,
            str(episode.task.answer),
            self.suite(episode.task),
            seconds=self.seconds,
            ignore_distinct=self.ignore_distinct,
        )
        episode.metadata["verdict"] = verdict.model_dump()
        return float(verdict.outcome == "same")

    def suite(self, task: Task) -> list[Path]:
        """The databases on which a statement is judged: the one that the model sees, and those beside it."""
        seen = self.folder / task.metadata["database"]
        others = (path for path in sorted(seen.parent.glob("*.sqlite")) if path != seen)
        return [seen, *others][:MOST_DATABASES]

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Looks at the schema, tries the gold statement and answers with it; or guesses, see ``expert_rate``.

        Where all questions are about one table, it knows that by heart.
        """
        if rng.random() >= self.expert_rate:
            others = self.tasks("train")
            yield _fenced(rng.choice(others).answer)
            return
        if self.data or any(FORMS[form].level > 1 for form in self.forms):
            yield call("sql")
        yield call("sql", query=task.answer)
        yield _fenced(task.answer)


def _fenced(statement: str) -> Message:
    return say(f"```sql\n{statement}\n```")

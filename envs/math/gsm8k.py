"""Questions in GSM8K's form: ``question``, and an ``answer`` whose last line is ``#### number``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from agentrl import Task, read_split
from agentrl.rewards.math import read_number

OnBadRow = Literal["stop", "skip"]
COLUMNS = ("question", "answer")


def load(data: str, split: str, on_bad_row: OnBadRow = "stop") -> list[Task]:
    """The tasks of a split.

    Args:
        data: a folder, a file or a hub id, as :func:`agentrl.read_split` takes them.
        split: ``train`` or ``test``.
        on_bad_row: ``skip`` logs malformed rows with their line number; ``stop`` raises.

    Raises:
        DataError: the data is missing or cannot be reached, or a row is malformed.
    """
    return list(_tasks(read_split(data, split, COLUMNS, on_error=on_bad_row, check=_problem)))


def _tasks(rows: Iterator[Mapping[str, Any]]) -> Iterator[Task]:
    for row in rows:
        yield Task(row["question"].strip(), answer=_final(row["answer"]).replace(",", ""))


def _final(answer: str) -> str:
    return answer.rpartition("####")[2].strip()


def _problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a row that has the columns."""
    missing = [name for name in COLUMNS if not isinstance(row[name], str) or not row[name].strip()]
    if missing:
        return f"{' and '.join(map(repr, missing))} must be text"
    if "####" not in row["answer"]:
        return "its answer has no '####' before the final number"
    final = _final(row["answer"])
    if read_number(final.replace(",", "")) is None:
        return f"after '####' stands {final[:40]!r}, which is no number"
    return None

"""Anybody's questions and answers: a folder, a file or a hub data set with a column for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from agentrl import Task, read_split
from agentrl.rewards.words import normalize

OnBadRow = Literal["stop", "skip"]


def load(
    data: str, split: str, question: str = "question", answer: str = "answer", on_bad_row: OnBadRow = "stop"
) -> list[Task]:
    """The tasks of a split.

    Args:
        data: a folder, a file or a hub id, as :func:`agentrl.read_split` takes them.
        split: ``train`` or ``test``.
        question, answer: the columns. An answer is text, a number, or a list of texts that are all right.
        on_bad_row: ``skip`` logs malformed rows; ``stop`` raises.

    Raises:
        DataError: the data is missing or cannot be reached, or a row is malformed.
        ConfigError: the hub's client is not installed.
    """

    def problem(row: Mapping[str, Any]) -> str | None:
        made = _task(row, question, answer)
        return made if isinstance(made, str) else None

    rows = read_split(data, split, (question, answer), on_error=on_bad_row, check=problem)
    return [made for row in rows if isinstance(made := _task(row, question, answer), Task)]


def _task(row: Mapping[str, Any], question: str, answer: str) -> Task | str:
    """The row's task, or what is wrong with the row."""
    asked, given = row.get(question), row.get(answer)
    if not isinstance(asked, str) or not asked.strip():
        return f"{question!r} has to be text, not {str(asked)[:80]!r}"
    about = f"of the question {asked.strip()[:80]!r}"
    listed = given if isinstance(given, list | tuple) else [given]
    texts = [str(item).strip() for item in listed if isinstance(item, str | int | float)]
    if not texts or len(texts) < len(listed):
        return f"{answer!r} {about} has to be text, a number or a list of them, not {str(given)[:80]!r}"
    if not all(map(normalize, texts)):
        return f"{answer!r} {about} has no word to compare with: {str(given)[:80]!r}"
    return Task(asked.strip(), answer=texts if len(texts) > 1 else texts[0])

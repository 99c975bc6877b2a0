"""Questions from a dataset: two columns of its rows, a question and an answer.

In GSM8K's form the columns are ``question`` and ``answer``, and an answer's last line is ``#### number``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentrl import Task, read_split
from agentrl.rewards.math import MAX_ANSWER, extract_answer, read_number

OnBadRow = Literal["stop", "skip"]


@dataclass(frozen=True)
class Columns:
    """Where a row's question and answer stand.

    Args:
        question, answer: the columns' names.
        gsm8k: whether answers must end in ``#### number``. Otherwise an answer is what follows ``####``,
            or the last ``\\boxed{}``, or all of it: a number or a formula, as text or as a number.
    """

    question: str = "question"
    answer: str = "answer"
    gsm8k: bool = True


GSM8K = Columns()


def load(data: str, split: str, on_bad_row: OnBadRow = "stop", columns: Columns = GSM8K) -> list[Task]:
    """The tasks of a split.

    Args:
        data: a folder, a file or a hub id, as :func:`agentrl.read_split` takes them.
        split: ``train`` or ``test``.
        on_bad_row: ``skip`` logs malformed rows with their line number; ``stop`` raises.
        columns: where questions and answers stand.

    Raises:
        DataError: the data is missing or cannot be reached, or a row is malformed.
    """

    def problem(row: Mapping[str, Any]) -> str | None:
        made = _task(row, columns)
        return made if isinstance(made, str) else None

    names = (columns.question, columns.answer)
    rows = read_split(data, split, names, on_error=on_bad_row, check=problem)
    return [made for row in rows if isinstance(made := _task(row, columns), Task)]


def _task(row: Mapping[str, Any], columns: Columns) -> Task | str:
    """The row's task, or what is wrong with the row."""
    question, answer = row.get(columns.question), row.get(columns.answer)
    if not columns.gsm8k and _is_number(answer):
        answer = str(answer)
    cells = ((columns.question, question), (columns.answer, answer))
    missing = [repr(name) for name, text in cells if not isinstance(text, str) or not text.strip()]
    if missing:
        return f"{' and '.join(missing)} must be text"
    try:
        gold = (_gsm8k_answer if columns.gsm8k else _any_answer)(str(answer))
    except ValueError as problem:
        return str(problem)
    return Task(str(question).strip(), answer=gold)


def _is_number(cell: Any) -> bool:
    whole = isinstance(cell, int) and not isinstance(cell, bool)
    return whole or (isinstance(cell, float) and math.isfinite(cell))


def _gsm8k_answer(text: str) -> str:
    _, marker, final = text.rpartition("####")
    if not marker:
        raise ValueError("its answer has no '####' before the final number")
    answer = final.strip().replace(",", "")
    if read_number(answer) is None:
        raise ValueError(f"after '####' stands {final.strip()[:40]!r}, which is no number")
    return answer


def _any_answer(text: str) -> str:
    answer = extract_answer(text, ("hash", "boxed")) or text.strip()
    if len(answer) > MAX_ANSWER:
        raise ValueError(
            f"its answer has {len(answer)} characters, more than {MAX_ANSWER}, and none of them stand after "
            r"'####' or in \boxed{}"
        )
    return answer

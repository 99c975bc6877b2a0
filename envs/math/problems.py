"""Word problems from files: in GSM8K's form, or any rows with a question and an answer.

In GSM8K's form the columns are ``question``, and ``answer`` whose last line is ``#### number``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agentrl import ConfigError, DataError, Task, read_rows
from agentrl.rewards.math import MAX_ANSWER, extract_answer, read_number

logger = logging.getLogger(__name__)

OnBadRow = Literal["stop", "skip"]
NAMES = {"train": ("train",), "test": ("test", "dev", "validation")}
SUFFIXES = (".jsonl", ".json", ".parquet")


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
        data: a folder with ``train.jsonl`` and ``test.jsonl`` or ``dev.jsonl`` (or ``.parquet``), one
            such file, of which every eighth row is for ``test``, or a hub id such as ``openai/gsm8k``.
        split: ``train`` or ``test``.
        on_bad_row: ``skip`` logs malformed rows with their line number; ``stop`` raises.
        columns: where questions and answers stand.

    Raises:
        DataError: the data is missing or cannot be reached, or a row is malformed.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        return list(_read(_split_file(path, split), on_bad_row, columns))
    if path.is_file():
        tasks = _read(path, on_bad_row, columns)
        return [task for i, task in enumerate(tasks) if (i % 8 == 7) == (split == "test")]
    if path.suffix in SUFFIXES or path.is_absolute() or data.startswith((".", "~")) or data.count("/") != 1:
        raise DataError(
            f"There is no file or folder {data!r}. Give data= a folder with train.jsonl and test.jsonl, "
            "one such file, or a hub id like openai/gsm8k."
        )
    return list(_from_hub(data, split, on_bad_row, columns))


def _split_file(folder: Path, split: str) -> Path:
    candidates = [folder / f"{name}{suffix}" for name in NAMES[split] for suffix in SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    expected = " or ".join(f"{name}.jsonl" for name in NAMES[split])
    raise DataError(f"Folder {str(folder)!r} has no file for the {split} split: it needs {expected}.")


def _read(path: Path, on_bad_row: OnBadRow, columns: Columns) -> Iterator[Task]:
    last = 0
    for row in read_rows(path, (columns.question, columns.answer), on_error=on_bad_row):
        made = _task(row, columns)
        if isinstance(made, Task):
            yield made
            continue
        last = _line_of(path, row, last)
        _bad_row(f"{path} line {last}", made, on_bad_row)


def _from_hub(name: str, split: str, on_bad_row: OnBadRow, columns: Columns) -> Iterator[Task]:
    try:
        import datasets
    except ImportError as problem:
        raise ConfigError(
            f"There is no folder {name!r} here, and loading it from the hub needs `pip install datasets`."
        ) from problem
    try:
        config = "main" if "main" in datasets.get_dataset_config_names(name) else None
        rows = datasets.load_dataset(name, config, split=split)
    except Exception as problem:  # offline, unknown, gated: the hub's client raises many kinds
        raise DataError(
            f"There is no folder {name!r} here, and the hub's data set {name!r} (split {split}) could not be "
            f"loaded: {type(problem).__name__}: {problem}. Check the name and the network, or download it "
            "elsewhere and pass data=<folder> with train.jsonl and test.jsonl."
        ) from problem
    for number, row in enumerate(rows, start=1):
        made = _task(row, columns)
        if isinstance(made, Task):
            yield made
        else:
            _bad_row(f"{name} ({split}) row {number}", made, on_bad_row)


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


def _bad_row(where: str, problem: str, on_bad_row: OnBadRow) -> None:
    if on_bad_row == "stop":
        raise DataError(f"{where}: {problem}. Mend the line, or pass on_bad_row=skip to leave such rows out.")
    logger.warning("skipped %s: %s", where, problem)


def _line_of(path: Path, row: Mapping[str, Any], after: int) -> int:
    """The number of the line that holds a row; only looked for when the row is malformed."""
    if path.suffix == ".parquet":
        return next(
            (n for n, other in enumerate(read_rows(path), start=1) if n > after and other == row), after
        )
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number > after and line.strip():
                try:
                    if json.loads(line) == row:
                        return number
                except ValueError:  # read_rows has reported this line already
                    continue
    return after

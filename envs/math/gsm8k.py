"""Questions in GSM8K's form: ``question``, and an ``answer`` whose last line is ``#### number``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from agentrl import ConfigError, DataError, Task, read_rows
from agentrl.rewards.math import read_number

logger = logging.getLogger(__name__)

OnBadRow = Literal["stop", "skip"]
COLUMNS = ("question", "answer")
NAMES = {"train": ("train",), "test": ("test", "dev", "validation")}
SUFFIXES = (".jsonl", ".json", ".parquet")


def load(data: str, split: str, on_bad_row: OnBadRow = "stop") -> list[Task]:
    """The tasks of a split.

    Args:
        data: a folder with ``train.jsonl`` and ``test.jsonl`` or ``dev.jsonl`` (or ``.parquet``), one
            such file, of which every eighth row is for ``test``, or a hub id such as ``openai/gsm8k``.
        split: ``train`` or ``test``.
        on_bad_row: ``skip`` logs malformed rows with their line number; ``stop`` raises.

    Raises:
        DataError: the data is missing or cannot be reached, or a row is malformed.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        return list(_read(_split_file(path, split), on_bad_row))
    if path.is_file():
        return [task for i, task in enumerate(_read(path, on_bad_row)) if (i % 8 == 7) == (split == "test")]
    if path.suffix in SUFFIXES or path.is_absolute() or data.startswith((".", "~")) or data.count("/") != 1:
        raise DataError(
            f"There is no file or folder {data!r}. Give data= a folder with train.jsonl and test.jsonl, "
            "one such file, or a hub id like openai/gsm8k."
        )
    return list(_from_hub(data, split, on_bad_row))


def _split_file(folder: Path, split: str) -> Path:
    candidates = [folder / f"{name}{suffix}" for name in NAMES[split] for suffix in SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    expected = " or ".join(f"{name}.jsonl" for name in NAMES[split])
    raise DataError(f"Folder {str(folder)!r} has no file for the {split} split: it needs {expected}.")


def _read(path: Path, on_bad_row: OnBadRow) -> Iterator[Task]:
    last = 0
    for row in read_rows(path, COLUMNS, on_error=on_bad_row):
        made = _task(row)
        if isinstance(made, Task):
            yield made
            continue
        last = _line_of(path, row, last)
        _bad_row(f"{path} line {last}", made, on_bad_row)


def _from_hub(name: str, split: str, on_bad_row: OnBadRow) -> Iterator[Task]:
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
        made = _task(row)
        if isinstance(made, Task):
            yield made
        else:
            _bad_row(f"{name} ({split}) row {number}", made, on_bad_row)


def _task(row: Mapping[str, Any]) -> Task | str:
    """The row's task, or what is wrong with the row."""
    missing = [name for name in COLUMNS if not isinstance(row.get(name), str) or not row[name].strip()]
    if missing:
        return f"{' and '.join(map(repr, missing))} must be text"
    _, marker, final = row["answer"].rpartition("####")
    if not marker:
        return "its answer has no '####' before the final number"
    answer = final.strip().replace(",", "")
    if read_number(answer) is None:
        return f"after '####' stands {final.strip()[:40]!r}, which is no number"
    return Task(row["question"].strip(), answer=answer)


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

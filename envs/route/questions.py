"""Anybody's questions and answers: a folder, a file or a hub data set with a column for each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from agentrl import ConfigError, DataError, Task, read_rows
from agentrl.rewards._text import normalize

logger = logging.getLogger(__name__)

OnBadRow = Literal["stop", "skip"]
NAMES = {"train": ("train",), "test": ("test", "dev", "validation")}
SUFFIXES = (".jsonl", ".json", ".parquet")


def load(
    data: str, split: str, question: str = "question", answer: str = "answer", on_bad_row: OnBadRow = "stop"
) -> list[Task]:
    """The tasks of a split.

    Args:
        data: a folder with ``train.jsonl`` and ``test.jsonl``, ``dev.jsonl`` or ``validation.jsonl`` (or
            ``.parquet``), one such file, of which every eighth row is for ``test``, or a hub id.
        split: ``train`` or ``test``.
        question, answer: the columns. An answer is text, a number, or a list of texts that are all right.
        on_bad_row: ``skip`` logs malformed rows; ``stop`` raises.

    Raises:
        DataError: the data is missing or cannot be reached, or a row is malformed.
        ConfigError: the hub's client is not installed.
    """
    path = Path(data).expanduser()
    columns = (question, answer)
    if path.is_dir():
        file = _split_file(path, split)
        return list(_tasks(str(file), read_rows(file, columns, on_error=on_bad_row), columns, on_bad_row))
    if path.is_file():
        rows = read_rows(path, columns, on_error=on_bad_row)
        tasks = _tasks(str(path), rows, columns, on_bad_row)
        return [task for i, task in enumerate(tasks) if (i % 8 == 7) == (split == "test")]
    if path.suffix in SUFFIXES or path.is_absolute() or data.startswith((".", "~")) or data.count("/") != 1:
        raise DataError(
            f"There is no file or folder {data!r}. Give data= a folder with train.jsonl and test.jsonl, one "
            "such file, or a hub id like owner/name."
        )
    return list(_tasks(f"{data} ({split})", _from_hub(data, split), columns, on_bad_row))


def _split_file(folder: Path, split: str) -> Path:
    candidates = [folder / f"{name}{suffix}" for name in NAMES[split] for suffix in SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    expected = " or ".join(f"{name}.jsonl" for name in NAMES[split])
    raise DataError(f"Folder {str(folder)!r} has no file for the {split} split: it needs {expected}.")


def _from_hub(name: str, split: str) -> Iterator[Mapping[str, Any]]:
    try:
        import datasets
    except ImportError as problem:
        raise ConfigError(
            f"There is no folder {name!r} here, and loading it from the hub needs `pip install datasets`."
        ) from problem
    try:
        offered = datasets.get_dataset_split_names(name)
        chosen = next((candidate for candidate in NAMES[split] if candidate in offered), split)
        yield from datasets.load_dataset(name, split=chosen)
    except Exception as problem:  # offline, unknown, gated: the hub's client raises many kinds
        raise DataError(
            f"There is no folder {name!r} here, and the hub's data set {name!r} (split {split}) could not be "
            f"loaded: {type(problem).__name__}: {problem}. Check the name and the network, or download it "
            "elsewhere and pass data=<folder> with train.jsonl and test.jsonl."
        ) from problem


def _tasks(where: str, rows: Iterator[Any], columns: tuple[str, str], on_bad_row: OnBadRow) -> Iterator[Task]:
    for row in rows:
        made = _task(row, *columns)
        if isinstance(made, Task):
            yield made
        elif on_bad_row == "skip":
            logger.warning("skipped a row of %s: %s", where, made)
        else:
            raise DataError(f"{where}: {made}. Mend the row, or pass on_bad_row=skip to leave such rows out.")


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

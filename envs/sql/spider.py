"""Questions in Spider's form: ``question``, ``query`` and ``db_id``, and an SQLite file for each
``db_id``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from agentrl import ConfigError, DataError, Task, read_rows

OnBadRow = Literal["stop", "skip"]
COLUMNS = ("question", "query", "db_id")
NAMES = {"train": ("train", "train_spider"), "test": ("test", "dev", "validation")}
SUFFIXES = (".jsonl", ".json", ".parquet")
_APART = {"> =": ">=", "< =": "<=", "! =": "!="}
"""As some of the gold statements have it, and as the test suite mends them."""


def folder(data: str, databases: str | None) -> Path:
    """The folder with the databases that belong to ``data``.

    Raises:
        DataError: it is not there.
        ConfigError: it has to be named.
    """
    path = Path(data).expanduser()
    if databases is None and not path.exists() and _is_hub_id(data):
        raise ConfigError(
            f"Rows from the hub ({data!r}) come without databases: give databases= a folder that holds "
            "<db_id>/<db_id>.sqlite."
        )
    beside = (path if path.is_dir() else path.parent) / "database"
    found = Path(databases).expanduser() if databases else beside
    if not found.is_dir():
        raise DataError(
            f"There is no folder {str(found)!r} with the databases <db_id>/<db_id>.sqlite of {data!r}."
        )
    return found.resolve()


def load(data: str, databases: Path, split: str, on_bad_row: OnBadRow = "stop") -> list[Task]:
    """The tasks of a split.

    Args:
        data: a folder with ``train.jsonl`` and ``test.jsonl`` or ``dev.jsonl`` (or ``.parquet``), one such
            file, of which every eighth row is for ``test``, or a hub id such as ``xlangai/spider``.
        databases: the folder that holds ``<db_id>/<db_id>.sqlite``.
        split: ``train`` or ``test``.
        on_bad_row: ``skip`` logs malformed rows with their line number; ``stop`` raises.

    Raises:
        DataError: the data is missing or cannot be reached, or a row is malformed.
    """
    path, check = Path(data).expanduser(), _checked(databases)
    if path.is_dir():
        rows = read_rows(_split_file(path, split), COLUMNS, on_error=on_bad_row, check=check)
        return [_task(row) for row in rows]
    if path.is_file():
        rows = read_rows(path, COLUMNS, on_error=on_bad_row, check=check)
        return [_task(row) for i, row in enumerate(rows) if (i % 8 == 7) == (split == "test")]
    if not _is_hub_id(data):
        raise DataError(
            f"There is no file or folder {data!r}. Give data= a folder with train.jsonl, dev.jsonl and "
            "database/, one such file, or a hub id like xlangai/spider."
        )
    return list(_from_hub(data, split, check, on_bad_row))


def _is_hub_id(data: str) -> bool:
    path = Path(data).expanduser()
    named = path.suffix in SUFFIXES or path.is_absolute() or data.startswith((".", "~"))
    return not named and data.count("/") == 1


def _split_file(rows: Path, split: str) -> Path:
    candidates = [rows / f"{name}{suffix}" for name in NAMES[split] for suffix in SUFFIXES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    expected = " or ".join(f"{name}.jsonl" for name in NAMES[split])
    raise DataError(f"Folder {str(rows)!r} has no file for the {split} split: it needs {expected}.")


def _from_hub(
    name: str, split: str, check: Callable[[dict[str, Any]], str | None], on_bad_row: OnBadRow
) -> Iterator[Task]:
    try:
        import datasets
    except ImportError as problem:
        raise ConfigError(
            f"There is no folder {name!r} here, and loading it from the hub needs `pip install datasets`."
        ) from problem
    try:
        rows = list(datasets.load_dataset(name, split="train" if split == "train" else "validation"))
    except Exception as problem:  # offline, unknown, gated: the hub's client raises many kinds
        raise DataError(
            f"There is no folder {name!r} here, and the hub's data set {name!r} (split {split}) could not be "
            f"loaded: {type(problem).__name__}: {problem}. Check the name and the network, or download it "
            "elsewhere and pass data=<folder> with train.jsonl, dev.jsonl and database/."
        ) from problem
    for number, row in enumerate(rows, start=1):
        wrong = check(dict(row))
        if wrong is None:
            yield _task(row)
        elif on_bad_row == "stop":
            raise DataError(
                f"{name} ({split}) row {number}: {wrong}. Pass on_bad_row=skip to leave such rows out."
            )


def _checked(databases: Path) -> Callable[[dict[str, Any]], str | None]:
    """Says what is wrong with a row."""

    def check(row: dict[str, Any]) -> str | None:
        empty = [name for name in COLUMNS if not isinstance(row.get(name), str) or not row[name].strip()]
        if empty:
            return f"{' and '.join(map(repr, empty))} must be text"
        if Path(row["db_id"]).name != row["db_id"] or row["db_id"] in (".", ".."):
            return f"db_id={row['db_id']!r} is no plain name"
        if not (databases / _database(row)).is_file():
            return f"there is no database {str(databases / _database(row))!r}"
        return None

    return check


def _database(row: Mapping[str, Any]) -> str:
    return f"{row['db_id']}/{row['db_id']}.sqlite"


def _task(row: Mapping[str, Any]) -> Task:
    query = row["query"].strip()
    for apart, together in _APART.items():
        query = query.replace(apart, together)
    metadata = {"database": _database(row), "db_id": row["db_id"]}
    return Task(row["question"].strip(), answer=query, metadata=metadata)

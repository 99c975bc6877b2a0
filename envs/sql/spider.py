"""Questions in Spider's form: ``question``, ``query`` and ``db_id``, and an SQLite file for each
``db_id``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from agentrl import ConfigError, DataError, Task, read_split

OnBadRow = Literal["stop", "skip"]
COLUMNS = ("question", "query", "db_id")
_APART = {"> =": ">=", "< =": "<=", "! =": "!="}
"""As some of the gold statements have it, and as the test suite mends them."""


def folder(data: str, databases: str | None) -> Path:
    """The folder with the databases that belong to ``data``.

    Raises:
        DataError: it is not there.
        ConfigError: it has to be named.
    """
    path = Path(data).expanduser()
    if databases is None and not path.exists():
        raise ConfigError(
            f"There is no file or folder {data!r}, and rows from the hub come without databases: give "
            "databases= a folder that holds <db_id>/<db_id>.sqlite."
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
        data: a folder, a file or a hub id such as ``xlangai/spider``, as :func:`agentrl.read_split` takes
            them.
        databases: the folder that holds ``<db_id>/<db_id>.sqlite``.
        split: ``train`` or ``test``.
        on_bad_row: ``skip`` logs malformed rows with their line number; ``stop`` raises.

    Raises:
        DataError: the data is missing or cannot be reached, or a row is malformed.
    """
    rows = read_split(data, split, COLUMNS, on_error=on_bad_row, check=_checked(databases))
    return [_task(row) for row in rows]


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

"""Reading rows of tasks from files, with errors that name the line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from agentrl.errors import DataError

logger = logging.getLogger(__name__)


def read_rows(
    path: str | Path,
    columns: Sequence[str] = (),
    *,
    on_error: Literal["stop", "skip"] = "stop",
    check: Callable[[dict[str, Any]], str | None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a ``.jsonl`` (or ``.jsonl``-like ``.json`` lines) or ``.parquet`` file.

    Args:
        path: the file.
        columns: columns every row must have.
        on_error: ``stop`` raises on the first malformed row; ``skip`` logs each one with its
            line number and goes on.
        check: what else is wrong with a row that has the columns, in words; ``None`` if nothing is.

    Raises:
        DataError: the file is missing, of an unknown kind, or a row is malformed. Rows yielded
            before it stay good.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no data file {str(path)!r}. Check the path given as data=.")
    reader = {".jsonl": _json_lines, ".json": _json_lines, ".parquet": _parquet}.get(path.suffix)
    if reader is None:
        raise DataError(f"{path} is of no kind that can be read; use .jsonl or .parquet.")
    for number, row in reader(path):
        problem = row if isinstance(row, str) else _missing(row, columns) or (check(row) if check else None)
        if problem is None:
            yield row  # type: ignore[misc]
        elif on_error == "skip":
            logger.warning("skipped %s line %d: %s", path, number, problem)
        else:
            raise DataError(
                f"{path} line {number}: {problem}. Mend the line, or pass on_bad_row=skip to leave such "
                "rows out."
            )


def _missing(row: dict[str, Any], columns: Sequence[str]) -> str | None:
    missing = [name for name in columns if name not in row]
    if not missing:
        return None
    return f"the row lacks {', '.join(map(repr, missing))} (it has {', '.join(map(repr, row)) or 'nothing'})"


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as problem:
                yield number, f"not valid JSON ({problem})"
                continue
            yield (
                number,
                row if isinstance(row, dict) else f"a row must be an object, not {type(row).__name__}",
            )


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as problem:
        raise DataError(f"{path} is Parquet, which needs pyarrow: pip install pyarrow.") from problem

    try:
        batches = (batch.to_pylist() for batch in parquet.ParquetFile(path).iter_batches())
        yield from enumerate((row for batch in batches for row in batch), start=1)
    except Exception as problem:  # pyarrow raises many kinds; all mean the file is unreadable
        raise DataError(f"{path} cannot be read as Parquet: {problem}") from problem

"""Reading rows of tasks from files, with errors that name the line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from agentrl.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

SPLITS: Mapping[str, Sequence[str]] = MappingProxyType(
    {"train": ("train",), "test": ("test", "dev", "validation")}
)
"""By which names the files and parts of each split go, best first."""


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
    reader = READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"{path} is of no kind that can be read; use .jsonl or .parquet.")
    yield from _checked(reader(path), f"{path} line", columns, on_error, check)


def read_split(
    data: str,
    split: str,
    columns: Sequence[str] = (),
    *,
    on_error: Literal["stop", "skip"] = "stop",
    check: Callable[[dict[str, Any]], str | None] | None = None,
    config: str | None = None,
    prefer: str = "main",
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split of a dataset, wherever it is.

    Args:
        data: a folder with ``train.jsonl`` and ``test.jsonl``, ``dev.jsonl`` or ``validation.jsonl`` (or
            ``.parquet``), one such file, or a hub id such as ``openai/gsm8k``. Where there is nothing but
            ``train``, every eighth row of it is for ``test``.
        split: ``train`` or ``test``.
        columns, on_error, check: as in :func:`read_rows`.
        config: the hub's name of a part of the dataset; default: ``prefer``, or the only one.
        prefer: the part that is taken where the hub offers it.

    Raises:
        DataError: the data is missing or cannot be reached, or a row is malformed.
        ConfigError: there is no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"There is no split {split!r}; there are 'train' and 'test'.")
    path = Path(data).expanduser()
    if path.is_dir():
        yield from read_rows(_split_file(path, split), columns, on_error=on_error, check=check)
    elif path.is_file():
        yield from _share(read_rows(path, columns, on_error=on_error, check=check), split)
    elif path.suffix in READERS or path.is_absolute() or data.startswith((".", "~")) or data.count("/") != 1:
        raise DataError(
            f"There is no file or folder {data!r}. Give data= a folder with train.jsonl and test.jsonl, "
            "one such file, or a hub id like openai/gsm8k."
        )
    else:
        rows, where, whole = _from_hub(data, split, config, prefer)
        checked = _checked(enumerate(rows, start=1), f"{where} row", columns, on_error, check)
        yield from checked if whole else _share(checked, split)


def _share(rows: Iterator[dict[str, Any]], split: str) -> Iterator[dict[str, Any]]:
    return (row for index, row in enumerate(rows) if (index % 8 == 7) == (split == "test"))


def _split_file(folder: Path, split: str) -> Path:
    candidates = [folder / f"{name}{suffix}" for name in SPLITS[split] for suffix in READERS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    expected = " or ".join(f"{name}.jsonl" for name in SPLITS[split])
    raise DataError(f"Folder {str(folder)!r} has no file for the {split} split: it needs {expected}.")


def _from_hub(
    name: str, split: str, config: str | None, prefer: str
) -> tuple[Iterable[dict[str, Any]], str, bool]:
    """The rows, what to call them, and whether they are all of the split."""
    try:
        import datasets
    except ImportError as problem:
        raise ConfigError(
            f"There is no folder {name!r} here, and loading it from the hub needs `pip install datasets`."
        ) from problem
    try:
        if config is None and prefer in datasets.get_dataset_config_names(name):
            config = prefer
        there = datasets.get_dataset_split_names(name, config)
        chosen = next((each for each in SPLITS[split] if each in there), "train")
        rows = datasets.load_dataset(name, config, split=chosen)
    except Exception as problem:  # offline, unknown, gated: the hub's client raises many kinds
        raise DataError(
            f"There is no folder {name!r} here, and the hub's data set {name!r} (split {split}) could not be "
            f"loaded: {type(problem).__name__}: {problem}. Check the name and the network, or download it "
            "elsewhere and pass data=<folder> with train.jsonl and test.jsonl."
        ) from problem
    whole = chosen in SPLITS[split] and any(each in there for each in SPLITS["test"])
    return rows, f"{name} ({chosen})", whole


def _checked(
    rows: Iterable[tuple[int, dict[str, Any] | str]],
    where: str,
    columns: Sequence[str],
    on_error: Literal["stop", "skip"],
    check: Callable[[dict[str, Any]], str | None] | None,
) -> Iterator[dict[str, Any]]:
    """The good rows; a text in a row's place says what is wrong with it."""
    for number, row in rows:
        problem = row if isinstance(row, str) else _missing(row, columns) or (check(row) if check else None)
        if problem is None:
            yield row  # type: ignore[misc]
        elif on_error == "skip":
            logger.warning("skipped %s %d: %s", where, number, problem)
        else:
            raise DataError(
                f"{where} {number}: {problem}. Mend the line, or pass on_bad_row=skip to leave such rows out."
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


READERS: Mapping[str, Callable[[Path], Iterator[tuple[int, dict[str, Any] | str]]]] = MappingProxyType(
    {".jsonl": _json_lines, ".json": _json_lines, ".parquet": _parquet}
)
"""By the ending of a file's name: its rows with their numbers, or a text that says what is wrong with one."""

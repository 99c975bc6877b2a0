"""What benchmarks share whose figures are a table: their command line, and the memory that processes hold."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import psutil

Table = dict[str, dict[str, float]]
"""By row, then by figure."""


def run(
    measure: Callable[..., Coroutine[Any, Any, Table]],
    description: str,
    *,
    numbers: Mapping[str, tuple[int, str]],
    columns: Mapping[str, tuple[str, str]],
) -> None:
    """Measure what the command line asks for and print it, with ``--json`` as one object.

    Args:
        measure: given the numbers by name.
        description: the benchmark's docstring, whose first line ``--help`` shows.
        numbers: the options: each one's default, and what it is.
        columns: which figures are printed: each one's heading, and the format of its numbers.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    for name, (default, what) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = vars(parser.parse_args())
    as_json = options.pop("json")
    found = asyncio.run(measure(**options))
    if as_json:
        print(json.dumps({row: {key: round(n, 3) for key, n in each.items()} for row, each in found.items()}))
        return
    wide = max(map(len, found)) + 2
    print(" " * wide + "".join(f"{heading:>{len(heading) + 3}}" for heading, _ in columns.values()))
    for row, figures in found.items():
        cells = (f"{figures[key]:{len(title) + 3}{form}}" for key, (title, form) in columns.items())
        print(f"{row:{wide}}{''.join(cells)}")


def held_mb(*, with_this: bool) -> float:
    """MiB of the processes below this one, and of this one if wanted; shared pages count once."""
    root, total = psutil.Process(), 0
    for process in [*([root] if with_this else []), *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return total / 2**20

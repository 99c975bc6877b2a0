"""Whether two answers to a query are the same. Used in sandboxes and by the host."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

MOST_COLUMNS = 500

Row = tuple[Hashable, ...]


def same_rows(
    gold: Sequence[Row],
    given: Sequence[Row],
    *,
    ordered: bool,
    expired: Callable[[], bool] = lambda: False,
) -> bool:
    """Whether some order of the columns makes the answers equal, as Spider's test suite compares them.

    Rows count as often as they occur; their order matters only where ``ordered``. Values are equal as
    Python's
    are: 1 is 1.0 and is not '1'. Answers without rows are the same, whatever their columns.

    Args:
        expired: looked at while orders of columns are tried; True ends that.

    Raises:
        TimeoutError: ``expired`` said so.
        ValueError: there are more than MOST_COLUMNS columns.
    """
    if len(gold) != len(given):
        return False
    if not gold:
        return True
    if len(gold[0]) != len(given[0]):
        return False
    if len(gold[0]) > MOST_COLUMNS:
        raise ValueError(f"more than {MOST_COLUMNS} columns")
    wanted, columns = list(zip(*gold, strict=True)), list(zip(*given, strict=True))
    if ordered:
        return Counter(wanted) == Counter(columns)
    kinds = {column: number for number, column in enumerate(dict.fromkeys(columns))}
    bags = [Counter(column) for column in columns]
    fitting = [[n for n, bag in enumerate(bags) if bag == own] for own in map(Counter, wanted)]

    def complete(depth: int, left: "list[int]", right: "list[int]", used: "frozenset[int]") -> bool:
        """Whether the columns from ``depth`` on find partners; rows so far are known by their numbers."""
        if depth == len(wanted):
            return True
        names: dict[tuple[int, Hashable], int] = {}
        longer = _numbered(left, wanted[depth], names)
        bag, tried = Counter(longer), set()
        for n in fitting[depth]:
            if n in used or kinds[columns[n]] in tried:  # of columns with the same content one is enough
                continue
            if expired():
                raise TimeoutError
            tried.add(kinds[columns[n]])
            other = _numbered(right, columns[n], names)
            if Counter(other) == bag and complete(depth + 1, longer, other, used | {n}):
                return True
        return False

    start = [0] * len(gold)
    return complete(0, start, start, frozenset())


def _numbered(rows: "list[int]", column: Row, names: "dict[tuple[int, Hashable], int]") -> "list[int]":
    """Rows with one value more, as numbers: equal rows have the same one."""
    return [names.setdefault((row, value), len(names)) for row, value in zip(rows, column, strict=True)]

"""Small pieces of text that the views share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"


def clean(text: str, limit: int = 200) -> str:
    """``text`` on one line, fit for a terminal.

    Names and messages may come from a model or a tool; control characters in them would act on
    the terminal, so they are shown as ``�``.
    """
    line = " ".join(text.split())
    line = "".join(character if character.isprintable() else "�" for character in line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def printable(text: str) -> str:
    """``text`` with its lines and tabs, other control characters shown as ``�``; see :func:`clean`."""
    return "".join(character if character.isprintable() or character in "\n\t" else "�" for character in text)


def sparkline(
    values: Sequence[float], width: int, low: float | None = None, high: float | None = None
) -> str:
    """``values`` as a row of blocks; more than ``width`` are averaged into that many.

    Args:
        values: any finite numbers, in order.
        width: the most characters to use.
        low, high: what the lowest and the highest block mean; by default the extremes.
    """
    if not values or width < 1:
        return ""
    count = min(len(values), width)
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    bottom = min(means) if low is None else low
    top = max(means) if high is None else high
    span = (top - bottom) or 1.0
    levels = [min(max((mean - bottom) / span, 0.0), 1.0) for mean in means]
    return "".join(_BLOCKS[round(level * (len(_BLOCKS) - 1))] for level in levels)


def duration(seconds: float) -> str:
    """``8.4s``, ``42s``, ``3m 05s`` or ``2h 07m``."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def percent(share: float) -> str:
    """``3.1%`` below 10, ``42%`` above."""
    value = 100 * share
    return f"{value:.1f}%" if 0 < value < 9.95 else f"{value:.0f}%"


def interval(low: float, high: float) -> str:
    """A 95% confidence interval of a share, as ``[86.3%, 95.7%]``."""
    return f"[{100 * low:.1f}%, {100 * high:.1f}%]"


def cells(shares: Sequence[float], width: int) -> list[int]:
    """How many of ``width`` cells each share takes: they add up to ``width``, by largest remainder.

    Args:
        shares: not negative, adding up to 1.
        width: cells to divide.
    """
    exact = [share * width for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: exact[i] - counts[i], reverse=True)
    for index in by_remainder[: width - sum(counts)]:
        counts[index] += 1
    return counts

"""A percentile over what was seen lately."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np


class RunningPercentile:
    """The percentile of the last numbers, first in, first out (SPEAR's P50 of groups' mean rewards).

    Args:
        window: how many numbers are kept; SPEAR's is 10240.
        percent: which percentile; linear between neighbours.
    """

    def __init__(self, window: int = 10240, percent: float = 50.0) -> None:
        self._seen: deque[float] = deque(maxlen=window)
        self._percent = percent

    def add(self, numbers: Iterable[float]) -> None:
        """Take in numbers, the oldest first."""
        self._seen.extend(float(number) for number in numbers)

    @property
    def seen(self) -> list[float]:
        """The numbers it is of, the oldest first."""
        return list(self._seen)

    @property
    def value(self) -> float:
        """The percentile; 0 before anything was seen."""
        return float(np.percentile(self._seen, self._percent)) if self._seen else 0.0

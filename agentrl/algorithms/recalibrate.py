"""Advantages of replayed episodes, measured again against how well the policy does now (SPEAR)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import DefinitionError


class RunningMedian:
    """The 50th percentile of recent group means, first in first out (SPEAR, ray_trainer_hybrid.py:197).

    Args:
        window: group means kept; the oldest go first.

    Raises:
        DefinitionError: ``window`` is below 1.
    """

    def __init__(self, window: int = 10_240) -> None:
        if window < 1:
            raise DefinitionError(f"window={window} must be at least 1.")
        self._means: deque[float] = deque(maxlen=window)

    def __len__(self) -> int:
        return len(self._means)

    def add(self, group_rewards: Sequence[float]) -> None:
        """Take in one group's rewards, ``[n]``.

        Raises:
            DefinitionError: the group is empty, or a reward is not finite.
        """
        rewards = np.asarray(group_rewards, dtype=np.float64)
        if rewards.size == 0 or not np.isfinite(rewards).all():
            raise DefinitionError("A group's rewards must be finite numbers, at least one.")
        self._means.append(float(rewards.mean()))

    def value(self) -> float | None:
        """The baseline (linear interpolation between ranks); ``None`` before the first group."""
        return float(np.percentile(list(self._means), 50)) if self._means else None


def recalibrated(rewards: Sequence[float], baseline: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Advantages ``R - P50`` of stored episodes, ``[N]``, without a standard deviation, and which to keep.

    Those above 0 are kept. Source: SPEAR, code.
    """
    advantages = np.asarray(rewards, dtype=np.float64) - baseline
    return advantages, advantages > 0


def decayed(advantages: Sequence[float], factor: float) -> NDArray[np.float64]:
    """SPEAR's alternative: stored advantages ``[N]`` times a factor.

    Raises:
        DefinitionError: the factor is outside ``(0, 1]``.
    """
    if not 0 < factor <= 1:
        raise DefinitionError(f"factor={factor} must be above 0 and at most 1.")
    return np.asarray(advantages, dtype=np.float64) * factor

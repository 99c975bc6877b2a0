"""Advantages of replayed episodes, measured again against how well the policy does now (SPEAR).

The baseline is :class:`agentrl.algorithms.running.RunningPercentile` of recent groups' mean rewards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import DefinitionError


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

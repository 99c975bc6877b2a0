"""Sums that run backwards in time, without a loop over tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def reverse_scan(values: npt.ArrayLike, decay: npt.ArrayLike) -> Floats:
    """``y[t] = values[t] + decay[t] * y[t + 1]``, with nothing after the last.

    A decay of 0 starts anew, so that many segments can lie behind one another. Takes ``log2`` of the
    longest segment passes: each doubles how far a sum reaches.

    Args:
        values: ``[S]``
        decay: ``[S]``, or one number.
    """
    total = np.array(values, dtype=np.float64)
    factor = np.array(np.broadcast_to(np.asarray(decay, dtype=np.float64), total.shape))
    if total.size:
        factor[-1] = 0.0
    reach = 1
    while reach < total.size and factor.any():
        total[:-reach] += factor[:-reach] * total[reach:]
        factor[:-reach] *= factor[reach:]
        factor[-reach:] = 0.0
        reach *= 2
    return total

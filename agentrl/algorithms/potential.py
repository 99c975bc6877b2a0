"""Potential-based shaping: rewards for progress that leave the best policy as it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import DefinitionError


def shaping(potentials: Sequence[float], *, discount: float = 1.0) -> NDArray[np.float64]:
    """``F_t = gamma * Phi(s_{t+1}) - Phi(s_t)`` for the states ``s_0 … s_T``: ``[T + 1]`` to ``[T]``.

    Discounted, they add up to ``gamma^T Phi(s_T) - Phi(s_0)`` (Ng et al. 1999).

    Raises:
        DefinitionError: there is no state, a potential is not finite, or the discount is outside 0 … 1.
    """
    phi = np.asarray(potentials, dtype=np.float64)
    if phi.ndim != 1 or phi.size == 0 or not np.isfinite(phi).all() or not 0 <= discount <= 1:
        raise DefinitionError(
            "Potentials are finite numbers, one per state; the discount lies within 0 and 1."
        )
    return discount * phi[1:] - phi[:-1]

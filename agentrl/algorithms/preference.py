"""SPO: an episode's reward is its share of wins against the others of its group."""

from __future__ import annotations

from random import Random

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import DefinitionError


def win_rates(preferences: NDArray[np.float64]) -> NDArray[np.float64]:
    """``r_i = mean over j != i of P_ij``: ``[K, K]`` to ``[K]``; their mean is .5.

    Args:
        preferences: ``P_ij + P_ji = 1``; NaN where the judge could not tell, which counts .5.
            The diagonal is not read.

    Raises:
        DefinitionError: it is not square, has less than two rows, or the two directions contradict.
    """
    table = np.array(preferences, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) < 2:
        raise DefinitionError(f"Preferences are a square table of two or more, not of shape {table.shape}.")
    table = np.where(np.isnan(table), 0.5, table)
    np.fill_diagonal(table, 0.5)
    if (table < 0).any() or (table > 1).any() or not np.allclose(table + table.T, 1.0):
        raise DefinitionError("Preferences lie within 0 and 1, and P_ij + P_ji must be 1.")
    return np.asarray((table.sum(1) - 0.5) / (len(table) - 1))


def pairs(members: int, opponents: int | None, rng: Random) -> list[tuple[int, int]]:
    """Which to compare: all pairs, or a random sub-tournament with at least ``opponents`` for each.

    Members stand in a random circle and meet the next ``ceil(opponents / 2)``: all meet equally many.

    Raises:
        DefinitionError: there are less than two members, or no opponents.
    """
    if members < 2 or (opponents is not None and opponents < 1):
        raise DefinitionError(f"members={members} must be 2 or more, and opponents={opponents} 1 or more.")
    if opponents is None or opponents >= members - 1:
        return [(first, second) for first in range(members) for second in range(first + 1, members)]
    order = rng.sample(range(members), members)
    chosen = {
        tuple(sorted((order[place], order[(place + distance) % members])))
        for place in range(members)
        for distance in range(1, (opponents + 1) // 2 + 1)
    }
    return sorted((first, second) for first, second in chosen)

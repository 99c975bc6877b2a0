"""Which groups, episodes and turns are trained on.

``rewards`` are ``[E]`` and ``group`` ``[E]`` integers from 0 on; results are ``[E]``, true where kept.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agentrl.algorithms.groups import SAME, Bools, Ints, dense, group_std
from agentrl.algorithms.scan import Floats
from agentrl.algorithms.spec import Filters


def varied(rewards: npt.ArrayLike, group: npt.ArrayLike) -> Bools:
    """Leaves out groups whose rewards are all alike, and groups of one (DAPO, ScaleRL)."""
    return std_above(rewards, group, SAME, ddof=0)


def std_above(rewards: npt.ArrayLike, group: npt.ArrayLike, threshold: float, *, ddof: int = 1) -> Bools:
    """Keeps groups whose standard deviation is above the threshold (UI-S1: 0.3, ``ddof`` 0)."""
    return np.asarray(_spread(rewards, dense(group), ddof) > threshold)


def top_by_std(rewards: npt.ArrayLike, group: npt.ArrayLike, share: float, *, ddof: int = 1) -> Bools:
    """Keeps the share of groups whose rewards differ most, rounded down, and at least one (SPEAR: 0.75).

    Of groups that differ alike, those that come first are kept.
    """
    number = dense(group)
    _, first = np.unique(number, return_index=True)
    spread = _spread(rewards, number, ddof)[first]
    kept = np.zeros(len(first), dtype=bool)
    kept[np.argsort(-spread, kind="stable")[: max(1, int(share * len(first)))]] = True
    return kept[number]


def kept_episodes(
    rewards: npt.ArrayLike, group: npt.ArrayLike, how: Filters, *, spread_of: npt.ArrayLike | None = None
) -> Bools:
    """All that :class:`Filters` says of groups, one after the other.

    Args:
        rewards: ``[E]``
        group: ``[E]``
        how: the filters.
        spread_of: whose standard deviation ``least_std`` and ``top_share`` look at; default: that of
            rewards. ``[E]``
    """
    reward, number = np.asarray(rewards, dtype=np.float64), dense(group)
    measured = reward if spread_of is None else np.asarray(spread_of, dtype=np.float64)
    kept = np.ones(len(reward), dtype=bool)
    if how.zero_variance == "drop":
        kept &= varied(reward, number)
    if how.least_std is not None:
        kept &= std_above(measured, number, how.least_std, ddof=how.std_ddof)
    if how.top_share is not None and kept.any():
        kept[kept] = top_by_std(measured[kept], number[kept], how.top_share, ddof=how.std_ddof)
    return kept


def kept_all(how: Filters) -> bool:
    """Whether no group is left out of a step that was played."""
    return how.zero_variance != "drop" and how.least_std is None and how.top_share is None


def high_entropy_turns(entropy: npt.ArrayLike, group: npt.ArrayLike, share: float = 0.2) -> Bools:
    """Keeps turns whose entropy is at least a percentile of the group's (DART: the 20th; linear).

    Args:
        entropy: mean token entropy of each turn. ``[K]``
        group: of each turn. ``[K]``
        share: how many are left out, about.
    """
    values, number = np.asarray(entropy, dtype=np.float64), dense(group)
    order = np.lexsort((values, number))
    sizes = np.bincount(number, minlength=1) if len(number) else np.zeros(0, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    place = share * (sizes - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, sizes - 1)
    ranked = values[order]
    low, high = ranked[starts + below], ranked[starts + above]
    return np.asarray(values >= (low + (place - below) * (high - low))[number])


def _spread(rewards: npt.ArrayLike, number: Ints, ddof: int) -> Floats:
    """Each one's group's standard deviation; 0 for a group of one."""
    alone = np.bincount(number, minlength=1)[number] <= max(1, ddof) if len(number) else np.zeros(0, bool)
    return np.where(alone, 0.0, group_std(rewards, number, ddof))

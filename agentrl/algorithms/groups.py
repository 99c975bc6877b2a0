"""Statistics of groups: of the episodes of a task, or of its turns.

Everywhere ``values`` are ``[K]`` numbers and ``group`` are ``[K]`` integers from 0 on; results are ``[K]``,
each place holding what is true of its group.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agentrl.algorithms.scan import Floats

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SAME = 1e-8
"""Numbers whose standard deviation is no larger are all alike."""


def dense(*keys: npt.ArrayLike) -> Ints:
    """Numbers from 0 on for rows of keys; equal rows get the same. Each key is ``[K]``."""
    columns = [np.unique(np.asarray(key), return_inverse=True)[1].astype(np.int64) for key in keys]
    number = columns[0]
    for column in columns[1:]:
        number = number * (int(column.max(initial=0)) + 1) + column
    return np.unique(number, return_inverse=True)[1].astype(np.int64)


def all_alike(values: npt.ArrayLike, group: Ints) -> Bools:
    """Where all numbers of the group are the same, but for rounding; never in a group of one."""
    return np.asarray(group_std(values, group, 0) <= SAME)


def group_sizes(group: Ints) -> Ints:
    """How many members each one's group has."""
    return np.bincount(group).astype(np.int64)[group] if len(group) else np.zeros(0, np.int64)


def group_sum(values: npt.ArrayLike, group: Ints) -> Floats:
    """The sum over each one's group."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.asarray(np.bincount(group, weights=numbers)[group], float) if len(group) else numbers


def group_mean(values: npt.ArrayLike, group: Ints) -> Floats:
    """The mean over each one's group, itself included."""
    return np.asarray(group_sum(values, group) / np.maximum(group_sizes(group), 1), dtype=np.float64)


def leave_one_out_mean(values: npt.ArrayLike, group: Ints, owner: Ints) -> Floats:
    """The mean over those of each one's group that another owner has; 0 where there is none.

    Args:
        values: ``[K]``
        group: ``[K]``
        owner: ``[K]``, the episode that each belongs to. Leaving out the whole episode keeps a baseline
            independent of what the policy did in it, however many turns it took.
    """
    own = dense(group, owner)
    others = group_sizes(group) - group_sizes(own)
    rest = group_sum(values, group) - group_sum(values, own)
    return np.where(others > 0, rest / np.maximum(others, 1), 0.0)


def group_std(values: npt.ArrayLike, group: Ints, ddof: int) -> Floats:
    """The standard deviation of each one's group; 1 where it has no more than ``ddof`` members, or one."""
    centred = np.asarray(values, dtype=np.float64) - group_mean(values, group)
    sizes = group_sizes(group)
    spread = np.sqrt(group_sum(centred**2, group) / np.maximum(sizes - ddof, 1))
    return np.where(sizes > max(1, ddof), spread, 1.0)

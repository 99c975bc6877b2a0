"""Returns and generalised advantages along an episode. All arrays are flat: episode behind episode."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from agentrl.algorithms.scan import Floats, reverse_scan


def discounted(rewards: npt.ArrayLike, continues: npt.ArrayLike, gamma: float = 1.0) -> Floats:
    """The return from each place on: ``R_t = r_t + gamma R_{t+1}`` within an episode.

    Args:
        rewards: ``[K]``, of turns or of tokens.
        continues: ``[K]``, 1 where the same episode goes on with the next one, else 0.
        gamma: discount per place.
    """
    return reverse_scan(rewards, gamma * np.asarray(continues, dtype=np.float64))


def segment_returns(
    rewards: npt.ArrayLike,
    match: npt.ArrayLike,
    continues: npt.ArrayLike,
    gamma: float = 0.5,
    form: Literal["paper", "code"] = "paper",
) -> Floats:
    """UI-S1's returns of patched episodes: what comes after a patch is not the policy's doing.

    ``paper`` (Eq. 9): the sum from ``t`` to the first mismatch behind it, whose reward counts; a mismatch
    itself has its own reward alone. ``code`` (the authors' release): a mismatch's reward is not passed back.

    Args:
        rewards: per turn. ``[K]``
        match: whether the turn's action was the expert's. ``[K]``
        continues: 1 where the same episode goes on with the next turn. ``[K]``
        gamma: discount per turn; the paper's is 0.5.
        form: which of the two.
    """
    matched = np.asarray(match, dtype=bool)
    passes = np.asarray(continues, dtype=np.float64) * matched
    if form == "code":
        passes[:-1] *= matched[1:]
    return reverse_scan(rewards, gamma * passes)


def gae(
    rewards: npt.ArrayLike,
    values: npt.ArrayLike,
    continues: npt.ArrayLike,
    gamma: float = 1.0,
    lam: float = 1.0,
) -> tuple[Floats, Floats]:
    """Generalised advantage estimation (Schulman et al. 2016, Eq. 16); returns advantages and returns.

    Over tokens it skips observations, for only sampled tokens have a place. Over turns a turn is one action:
    ``gamma`` and ``lam`` count turns, and its value is that of its first token.

    Args:
        rewards: per place. ``[K]``
        values: the critic's before each place. ``[K]``
        continues: 1 where the same episode goes on with the next place; the value after the end is 0. ``[K]``
        gamma: discount per place.
        lam: GAE's lambda.
    """
    value, goes_on = np.asarray(values, dtype=np.float64), np.asarray(continues, dtype=np.float64)
    following = np.zeros_like(value)
    following[:-1] = value[1:]
    delta = np.asarray(rewards, dtype=np.float64) + gamma * goes_on * following - value
    advantages = reverse_scan(delta, gamma * lam * goes_on)
    return advantages, advantages + value

"""ArCHer's targets: a critic of turns with two Q and two V (Zhou et al. 2024, released code).

All arrays are ``[K]``: one number per turn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agentrl.algorithms.scan import Floats


def q_target(reward: npt.ArrayLike, next_value: npt.ArrayLike, done: npt.ArrayLike, gamma: float) -> Floats:
    """``r + gamma (1 - done) V'(s')``; after the end, whatever stands for the next state counts nothing.

    Args:
        reward: of the turn.
        next_value: the target network's value of the next state.
        done: whether the episode ended with the turn.
        gamma: discount per turn; ArCHer's is 0.95.
    """
    ended = np.asarray(done, dtype=bool)
    following = np.where(ended, 0.0, np.asarray(next_value, dtype=np.float64))
    return np.asarray(np.asarray(reward, dtype=np.float64) + gamma * following)


def twin_advantage(q1: npt.ArrayLike, q2: npt.ArrayLike, v1: npt.ArrayLike, v2: npt.ArrayLike) -> Floats:
    """``min(Q1, Q2) - min(V1, V2)``."""
    q, v = np.minimum(q1, q2), np.minimum(v1, v2)
    return np.asarray(q - v, dtype=np.float64)


def polyak(target: npt.ArrayLike, online: npt.ArrayLike, tau: float = 0.1) -> Floats:
    """The target moved towards the online network: ``(1 - tau) target + tau online``."""
    return np.asarray((1.0 - tau) * np.asarray(target, float) + tau * np.asarray(online, float))

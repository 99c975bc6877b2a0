"""How much a sample counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agentrl.algorithms.scan import Floats


def duration_weights(seconds: npt.ArrayLike) -> Floats:
    """Seconds over their mean: what took long is seldom among an asynchronous run's samples.

    From RL for machine-learning engineering agents: the gradient is multiplied by an action's duration,
    rescaled by the batch's mean. Without any time at all, every weight is 1.

    Args:
        seconds: wall time of each action, with its tools. ``[K]``
    """
    taken = np.asarray(seconds, dtype=np.float64)
    mean = taken.mean() if taken.size else 0.0
    return np.asarray(taken / mean) if mean > 0 else np.ones_like(taken)


def balanced_weights(probabilities: npt.ArrayLike, rewards: npt.ArrayLike) -> tuple[Floats, Floats]:
    """VeriRL's weights of the policy's loss and of its KL: ``max(p, s)`` and ``min(p, s)``.

    ``p`` and ``s`` are probabilities and rewards over their batch means. Where a reward is negative, all are
    shifted so that the least is 0 (inferred: the paper's reward model is positive).

    Args:
        probabilities: of each answer. ``[E]``
        rewards: ``[E]``

    Returns:
        alpha and beta. ``[E]``
    """
    reward = np.asarray(rewards, dtype=np.float64)
    if reward.size and reward.min() < 0:
        reward = reward - reward.min()
    p, s = _over_mean(np.asarray(probabilities, dtype=np.float64)), _over_mean(reward)
    return np.maximum(p, s), np.minimum(p, s)


def sequence_probability(logprobs: npt.ArrayLike, episode: npt.NDArray[np.int64]) -> Floats:
    """``exp(mean log-prob)`` of each episode's tokens; the length is taken out (inferred).

    Args:
        logprobs: of the sampled tokens. ``[S]``
        episode: of each, from 0 on. ``[S]``
    """
    total = np.bincount(episode, weights=np.asarray(logprobs, dtype=np.float64))
    return np.asarray(np.exp(total / np.maximum(np.bincount(episode), 1)))


def _over_mean(numbers: Floats) -> Floats:
    mean = numbers.mean() if numbers.size else 0.0
    return np.asarray(numbers / mean) if mean > 0 else np.ones_like(numbers)

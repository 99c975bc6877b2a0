"""What can be said about a success rate after finitely many episodes: pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist


def wilson_interval(successes: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a success rate (Wilson 1927, without continuity correction).

    Args:
        successes: how many trials succeeded, ``0 <= successes <= trials``.
        trials: independent trials; may be an effective number, so fractions are welcome.
        confidence: the share of such intervals that hold the true rate.

    Returns:
        ``(low, high)`` within 0..1; ``(0, 1)`` when nothing was tried.

    Raises:
        ValueError: the arguments are outside these ranges.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials make no rate.")
    if not 0 < confidence < 1:
        raise ValueError(f"A confidence of {confidence} is not between 0 and 1.")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, square = successes / trials, z * z / trials
    center = (rate + square / 2) / (1 + square)
    half = z * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials)) / (1 + square)
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == trials else min(1.0, center + half)
    return low, high


def success_interval(groups: Sequence[Sequence[bool]], confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval where tasks are sampled several times.

    Episodes of one task resemble each other, so they count for fewer than as many independent
    ones. The number of trials is divided by the design effect (Kish 1965): the variance of the
    tasks' totals around the overall rate, over what independent episodes would have. It stays
    between the number of tasks and the number of episodes; with one episode per task this is
    :func:`wilson_interval`.

    Args:
        groups: per task, whether each of its episodes succeeded; empty groups do not count.
        confidence: as in :func:`wilson_interval`.
    """
    groups = [group for group in groups if group]
    episodes = sum(len(group) for group in groups)
    if episodes == 0:
        return 0.0, 1.0
    rate = sum(sum(group) for group in groups) / episodes
    tasks = len(groups)
    effective = float(tasks)  # all alike or a single task: how alike a task's episodes are cannot be told
    if 0 < rate < 1 and tasks > 1:
        between = sum((sum(group) - rate * len(group)) ** 2 for group in groups) * tasks / (tasks - 1)
        design_effect = between / (episodes * rate * (1 - rate))
        effective = episodes / max(design_effect, 1.0)
        effective = min(max(effective, tasks), episodes)
    if tasks == episodes:
        effective = float(episodes)
    return wilson_interval(rate * effective, effective, confidence)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate that at least one of ``k`` samples is correct (Chen et al. 2021).

    ``1 - C(samples - correct, k) / C(samples, k)``: the share of the subsets of size ``k`` that
    hold a correct sample.

    Args:
        samples: samples drawn for the task.
        correct: how many of them are correct.
        k: at most ``samples``.

    Raises:
        ValueError: the arguments are outside these ranges.
    """
    if not 0 <= correct <= samples:
        raise ValueError(f"{correct} correct of {samples} samples cannot be.")
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} cannot be estimated from {samples} samples.")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)

"""ScaleRL's sigmoid: reward against compute, and the ceiling it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import DataError


@dataclass(frozen=True)
class Sigmoid:
    """``R_C = R_0 + (A - R_0) / (1 + (C_mid / C)^B)``."""

    start: float
    ceiling: float
    slope: float
    middle: float

    def at(self, compute: NDArray[np.float64]) -> NDArray[np.float64]:
        """The reward at each amount of compute (above 0), ``[N]``."""
        powers = np.exp(np.clip(self.slope * (np.log(self.middle) - np.log(compute)), -700, 700))
        return np.asarray(self.start + (self.ceiling - self.start) / (1 + powers))


def fit(
    compute: Sequence[float], reward: Sequence[float], *, start: float | None = None, rounds: int = 7
) -> Sigmoid:
    """The sigmoid nearest to the points, by least squares.

    For each slope and middle the best ceiling is a formula, and so is the best start; slope and middle are
    searched on a grid that narrows, from ``B`` within 0.1 … 10 and ``C_mid`` within e times the points.

    Args:
        compute: above 0, ``[N]``.
        reward: ``[N]``.
        start: ``R_0``, the reward before training; ``None``: it is fitted, too.
        rounds: times the grid narrows.

    Raises:
        DataError: there are less than four points at different computes (five where the start is fitted), or
            one is not finite or not above 0.
    """
    costs, rewards = np.asarray(compute, dtype=np.float64), np.asarray(reward, dtype=np.float64)
    least = 4 if start is not None else 5
    if costs.shape != rewards.shape or len(np.unique(costs)) < least:
        raise DataError(
            f"A sigmoid is fitted to {least} points or more at different amounts of compute; "
            f"there are {len(np.unique(costs))}."
        )
    if not (np.isfinite(costs).all() and np.isfinite(rewards).all() and (costs > 0).all()):
        raise DataError("Compute must be above 0, and both compute and reward finite.")
    low = np.array([np.log(0.1), np.log(costs.min()) - 1])
    high = np.array([np.log(10.0), np.log(costs.max()) + 1])
    best = (low + high) / 2
    ends = (0.0, 0.0)
    for _ in range(rounds):
        slopes, middles = (np.linspace(low[i], high[i], 41) for i in (0, 1))
        grid_b, grid_m = (part.ravel() for part in np.meshgrid(slopes, middles))
        powers = np.exp(grid_b)[:, None] * (grid_m[:, None] - np.log(costs)[None, :])
        shape = 1 / (1 + np.exp(np.clip(powers, -700, 700)))
        starts, gains = _ends(shape, rewards, start)
        errors = ((starts[:, None] + gains[:, None] * shape - rewards) ** 2).sum(1)
        chosen = int(errors.argmin())
        best = np.array([grid_b[chosen], grid_m[chosen]])
        ends = float(starts[chosen]), float(gains[chosen])
        reach = (high - low) / 8
        low, high = best - reach, best + reach
    return Sigmoid(ends[0], ends[0] + ends[1], float(np.exp(best[0])), float(np.exp(best[1])))


def _ends(
    shape: NDArray[np.float64], rewards: NDArray[np.float64], start: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The best start and ``A - R_0`` for each candidate's shape, ``[K, N]``: both ``[K]``."""
    if start is not None:
        gains = (shape @ (rewards - start)) / np.maximum((shape**2).sum(1), 1e-300)
        return np.full(len(shape), start), gains
    means = shape.mean(1)
    centred = shape - means[:, None]
    gains = (centred @ rewards) / np.maximum((centred**2).sum(1), 1e-300)
    return rewards.mean() - gains * means, gains


def ceiling_interval(
    compute: Sequence[float],
    reward: Sequence[float],
    *,
    start: float | None = None,
    samples: int = 200,
    share: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Between which values the ceiling lies, by fits to points made of the fit and its own residuals.

    Residuals are taken as independent of each other.

    Raises:
        DataError: as of :func:`fit`.
    """
    found = fit(compute, reward, start=start)
    line = found.at(np.asarray(compute, dtype=np.float64))
    residuals = np.asarray(reward, dtype=np.float64) - line
    residuals = residuals * np.sqrt(len(line) / max(len(line) - (3 if start is not None else 4), 1))
    rng = np.random.default_rng(seed)
    ceilings = [
        fit(compute, (line + rng.choice(residuals, len(line))).tolist(), start=start, rounds=4).ceiling
        for _ in range(samples)
    ]
    low, high = np.quantile(ceilings, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)

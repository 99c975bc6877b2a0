"""The sigmoid of reward against compute as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agentrl.view.ceiling import Ceiling, Series
from agentrl.view.figure import INK, blank, finish

_GREY, _CURVE = "#9aa5b1", "#c2410c"
_BEYOND = 4.0
"""How many times the compute that was measured the curve is drawn to."""


def draw_ceiling(found: Ceiling, series: Sequence[Series], path: Path, *, compute: str, metric: str) -> None:
    """Write the points, the curve and its ceiling with its interval, as what the file's ending says.

    Args:
        found: the fit.
        series: what it is a fit to.
        path: a PNG, SVG or PDF.
        compute: what compute is counted in.
        metric: what the reward is.

    Raises:
        ConfigError: the place cannot be written.
        ImportError: there is no matplotlib.
        ValueError: the file's ending names no picture.
    """
    figure, axes = blank()
    for one in series:
        points = [point for point in one.points if point[0] > 0]
        costs, rewards = zip(*points, strict=True)
        axes.plot(costs, rewards, "o", markersize=4, alpha=0.5, label=one.name, zorder=3)
    least = min(point[0] for one in series for point in one.points if point[0] > 0)
    grid = np.geomspace(least, found.greatest * _BEYOND, 200)
    measured = grid <= found.greatest
    axes.plot(grid[measured], found.curve.at(grid[measured]), color=_CURVE, linewidth=2.2, label="fit")
    axes.plot(grid[~measured], found.curve.at(grid[~measured]), color=_CURVE, linewidth=1.6, linestyle=":")
    axes.axhline(found.curve.ceiling, color=INK, linewidth=1, linestyle="--",
                 label=f"ceiling {found.curve.ceiling:.3f}")  # fmt: skip
    axes.axhspan(*found.interval, color=_GREY, alpha=0.2, linewidth=0)
    finish(figure, axes, path, x=f"compute ({compute})", y=metric)

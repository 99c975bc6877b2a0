"""Success against sampled tokens as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentrl.evaluate.budget import Curve, budgets
from agentrl.store import writing

_INK = "#1f2933"


def draw_budgets(curves: Sequence[Curve], path: Path) -> None:
    """Write the curves as what the file's ending says.

    Raises:
        ConfigError: the place cannot be written.
        ImportError: there is no matplotlib.
        ValueError: the file's ending names no picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.6), dpi=150, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    grid = budgets(curves, 200)
    for curve in curves:
        points = [(budget, share) for budget in grid if (share := curve.solved(budget)) is not None]
        label = f"{curve.name}: {curve.attempts:g} × {curve.tokens:.0f} tokens"
        axes.plot(*zip(*points, strict=True), linewidth=2, label=label)
    axes.set_xscale("log")
    axes.set_ylim(0, 1)
    axes.set_xlabel("sampled tokens for each task", color=_INK)
    axes.set_ylabel("tasks solved", color=_INK)
    axes.tick_params(colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="best", frameon=False, fontsize=9, labelcolor=_INK)
    with writing(path):
        figure.savefig(path)

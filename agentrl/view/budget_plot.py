"""Success against sampled tokens as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentrl.evaluate.budget import Curve, budgets
from agentrl.view.figure import blank, finish


def draw_budgets(curves: Sequence[Curve], path: Path) -> None:
    """Write the curves as what the file's ending says.

    Raises:
        ConfigError: the place cannot be written.
        ImportError: there is no matplotlib.
        ValueError: the file's ending names no picture.
    """
    figure, axes = blank()
    grid = budgets(curves, 200)
    for curve in curves:
        points = [(budget, share) for budget in grid if (share := curve.solved(budget)) is not None]
        label = f"{curve.name}: {curve.attempts:g} × {curve.tokens:.0f} tokens"
        axes.plot(*zip(*points, strict=True), linewidth=2, label=label)
    axes.set_ylim(0, 1)
    finish(figure, axes, path, x="sampled tokens for each task", y="tasks solved")

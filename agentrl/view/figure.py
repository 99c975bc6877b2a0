"""What the pictures of measurements have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentrl.store import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2933"


def blank() -> tuple[Figure, Axes]:
    """An empty picture.

    Raises:
        ImportError: there is no matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.6), dpi=150, facecolor="white", layout="constrained")
    return figure, figure.add_subplot()


def finish(figure: Figure, axes: Axes, path: Path, *, x: str, y: str) -> None:
    """Label a picture over a logarithmic cost, and write it as what the file's ending says.

    Raises:
        ConfigError: the place cannot be written.
        ValueError: the file's ending names no picture.
    """
    axes.set_xscale("log")
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="best", frameon=False, fontsize=9, labelcolor=INK)
    with writing(path):
        figure.savefig(path)

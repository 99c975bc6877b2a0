"""The learning curve as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentrl.store import writing
from agentrl.view.state import RunState

_INK, _GREY, _TRAIN, _HELD_OUT = "#1f2933", "#9aa5b1", "#2a78c2", "#c2410c"


def smooth(values: list[float], width: int) -> list[float]:
    """A running mean over ``width`` values, over fewer at the ends, centred on each value."""
    half = max(width, 1) // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def draw_curve(state: RunState, path: Path, title: str) -> None:
    """Write a PNG of training success per step, and held-out success with 95% intervals.

    Args:
        state: the run; steps without ``success/mean`` are left out.
        path: where the picture goes.
        title: what stands above it.

    Raises:
        ConfigError: the disk is full, or the place cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.6), dpi=150, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _style(axes, title)
    _training(axes, state)
    _held_out(axes, state)
    axes.set_xlim(left=min(-0.5, -0.02 * max(state.done, 1)))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none", fontsize=9, labelcolor=_INK)
    else:
        axes.text(0.5, 0.5, "no step was finished", transform=axes.transAxes, ha="center", color=_GREY)
    with writing(path):
        canvas.print_png(str(path))


def _style(axes: Any, title: str) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK, pad=12)
    axes.set_xlabel("training step", color=_INK)
    axes.set_ylabel("success", color=_INK)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GREY)


def _training(axes: Any, state: RunState) -> None:
    points = [
        (index, step.metrics["success/mean"])
        for index, step in sorted(state.history.items())
        if "success/mean" in step.metrics
    ]
    if not points:
        return
    steps, values = [list(column) for column in zip(*points, strict=True)]
    if len(points) < 8:
        axes.plot(
            steps, values, color=_TRAIN, linewidth=2, marker="o", markersize=4, label="training, per step"
        )
        return
    axes.plot(steps, values, color=_TRAIN, linewidth=1, alpha=0.35, label="training, per step")
    width = max(5, len(points) // 12)
    axes.plot(
        steps,
        smooth(values, width),
        color=_TRAIN,
        linewidth=2.2,
        label=f"training, mean of {width // 2 * 2 + 1}",
    )


def _held_out(axes: Any, state: RunState) -> None:
    evaluations = [event for _, event in sorted(state.evaluations.items())]
    if not evaluations:
        return
    steps = [event.step for event in evaluations]
    values = [event.success for event in evaluations]
    below = [max(0.0, event.success - event.low) for event in evaluations]
    above = [max(0.0, event.high - event.success) for event in evaluations]
    axes.errorbar(
        steps,
        values,
        yerr=[below, above],
        color=_HELD_OUT,
        linestyle=":" if len(steps) > 2 else "none",
        linewidth=1.2,
        marker="o",
        markersize=7,
        markeredgecolor="white",
        capsize=4,
        elinewidth=1.6,
        label="held out, 95% interval",
        zorder=5,
    )
    for event in {evaluations[0].step: evaluations[0], evaluations[-1].step: evaluations[-1]}.values():
        low_down = event.success < 0.5
        axes.annotate(
            f"{event.success:.0%}",
            (event.step, event.high if low_down else event.low),
            xytext=(0, 6 if low_down else -6),
            textcoords="offset points",
            ha="center",
            va="bottom" if low_down else "top",
            fontsize=9,
            fontweight="bold",
            color=_HELD_OUT,
        )

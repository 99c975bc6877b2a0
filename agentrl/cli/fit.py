"""``agentrl fit``: what reward more compute would come to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from agentrl.errors import ConfigError, UsageError
from agentrl.view.ceiling import Ceiling, Compute, Series, predict, read_series

PICTURES = (".png", ".svg", ".pdf")


def fit(
    sources: Sequence[str],
    runs: Path,
    *,
    metric: str,
    compute: Compute,
    start: float | None,
    drop: float,
    plot: Path | None,
    as_json: bool,
) -> int:
    """Fit a sigmoid to what runs measured, print its numbers, and draw it where that was asked for.

    Raises:
        UsageError: there is no such run or metric, there are too few points, or the reward does not rise.
    """
    check_picture(plot)
    series = [read_series(source, runs, metric=metric, compute=compute) for source in sources]
    if len({one.name for one in series}) < len(series):
        raise ConfigError("A run is named twice; name each once.")
    found = predict(series, start=start, drop=drop)
    files = all(Path(source).is_file() for source in sources)
    unit, what = ("compute", "reward") if files else (compute, metric)
    if as_json:
        told = {"metric": what, "compute": unit, "runs": [one.name for one in series], **found.to_dict()}
        typer.echo(json.dumps(told))
    else:
        _print(found, series, unit, what)
    if plot is not None:
        from agentrl.view.ceiling_plot import draw_ceiling

        try:
            draw_ceiling(found, series, plot, compute=unit, metric=what)
        except ImportError as problem:
            raise UsageError("A plot needs matplotlib: pip install 'agentrl[view]'.") from problem
    return 0


def check_picture(plot: Path | None) -> None:
    """Refuse to draw what is no picture.

    Raises:
        ConfigError: the file's ending says so.
    """
    if plot is not None and plot.suffix not in PICTURES:
        raise ConfigError(f"--plot {plot}: name a file that ends in {', '.join(PICTURES)}.")


def _print(found: Ceiling, series: Sequence[Series], unit: str, metric: str) -> None:
    curve, (low, high) = found.curve, found.interval
    how = (
        "95%, by bootstrap" if found.interval_from == "bootstrap" else f"of {len(series)} runs by themselves"
    )
    rows = [
        ("A", f"{curve.ceiling:.4f}", f"the ceiling; {low:.4f} … {high:.4f} ({how})"),
        ("R0", f"{curve.start:.4f}", f"before training ({found.start_from})"),
        ("B", f"{curve.slope:.3f}", "how steeply it rises"),
        ("C_mid", f"{curve.middle:.4g}", f"{unit} to half the rise; measured up to {found.greatest:.4g}"),
        ("points", str(found.points), f"{found.dropped} at the start dropped ({found.dropped_share:.0%})"),
    ]
    console = Console(soft_wrap=True)
    console.print(f"{metric} against {unit}", highlight=False, markup=False)
    for name, value, meaning in rows:
        console.print(f"{name:7} {value:>10}  {meaning}", highlight=False, markup=False)
    if not found.bent:
        console.print(
            "Half the rise lies beyond what was measured: the ceiling is a guess.",
            highlight=False,
            style="yellow",
        )

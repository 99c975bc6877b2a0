"""``agentrl budget``: what evaluations solve with as many sampled tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from agentrl.cli.fit import check_picture
from agentrl.errors import ConfigError, UsageError
from agentrl.evaluate.budget import Curve, budgets, read_attempts
from agentrl.store import RunFolder


def budget(sources: Sequence[str], runs: Path, *, plot: Path | None, as_json: bool) -> int:
    """Print, and draw where that was asked for, the share of tasks solved against tokens.

    Raises:
        UsageError: there is no such run, or it is no evaluation.
    """
    check_picture(plot)
    folders = [RunFolder.open(source, runs) for source in sources]
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise ConfigError("A run is named twice; name each once.")
    curves = [Curve.of(folder.name, read_attempts(folder)) for folder in folders]
    grid = budgets(curves)
    if as_json:
        told = [
            {
                "run": curve.name, "tasks": curve.tasks, "attempts": curve.attempts, "tokens": curve.tokens,
                "reach": curve.reach, "solved": [curve.solved(tokens) for tokens in grid],
            }
            for curve in curves
        ]  # fmt: skip
        typer.echo(json.dumps({"budgets": grid, "runs": told}))
    else:
        _print(curves, grid)
    if plot is not None:
        from agentrl.view.budget_plot import draw_budgets

        try:
            draw_budgets(curves, plot)
        except ImportError as problem:
            raise UsageError("A plot needs matplotlib: pip install 'agentrl[view]'.") from problem
    return 0


def _print(curves: Sequence[Curve], grid: Sequence[int]) -> None:
    table = Table("tokens a task", *(curve.name for curve in curves), box=None)
    for tokens in grid:
        shares = [curve.solved(tokens) for curve in curves]
        table.add_row(str(tokens), *("" if share is None else f"{share:.1%}" for share in shares))
    console = Console(soft_wrap=True)
    console.print(table)
    for curve in curves:
        size = f"{curve.attempts:g} attempts at each, {curve.tokens:.0f} tokens long"
        console.print(f"{curve.name}: {curve.tasks} tasks, {size}", highlight=False, markup=False)

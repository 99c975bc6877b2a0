"""``agentrl simulate``: what a configuration would do on a cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from agentrl.errors import UsageError
from agentrl.simulate import load, plot, run_modes, scenarios, table


def simulate(scenario: str, settings: Sequence[str], *, as_json: bool, plot_to: Path | None) -> int:
    """Run a scenario and print what came of it.

    Args:
        scenario: its name, or a YAML file.
        settings: ``key=value`` words laid over it.
        as_json: print one JSON object instead of a table.
        plot_to: also draw queues and ages into this file.

    Raises:
        UsageError: the scenario or a setting is unknown, or a plot was asked for without matplotlib.
    """
    wanted = load(scenario, settings)
    outcomes = run_modes(wanted)
    console = Console(soft_wrap=True)
    if as_json:
        found = {"scenario": scenario, "outcomes": [outcome.to_dict() for outcome in outcomes]}
        console.print(json.dumps(found), markup=False, highlight=False)
    else:
        console.print(table(wanted, outcomes), highlight=False)
    if plot_to is not None:
        try:
            plot(outcomes, plot_to)
        except ImportError as problem:
            raise UsageError("A plot needs matplotlib: pip install 'agentrl[view]'.") from problem
    return 0


def overview() -> int:
    """Print the scenarios that ship."""
    console = Console(soft_wrap=True)
    for name in scenarios():
        console.print(f"{name:10} {load(name).about}", highlight=False)
    return 0

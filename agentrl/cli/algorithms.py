"""``agentrl algorithms``: the presets, one of them, and how two differ."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from agentrl.cli.common import reported

if TYPE_CHECKING:
    from rich.console import Console

    from agentrl.algorithms import Algorithm

app = typer.Typer(help="List the algorithms, show one, or show how two differ.", invoke_without_command=True)


@app.callback()
def overview(
    context: typer.Context,
    as_json: bool = typer.Option(False, "--json", help="Print a JSON list of objects."),
) -> None:
    """List the algorithms, show one, or show how two differ."""
    if context.invoked_subcommand is None:
        _list(as_json)


@reported
def _list(as_json: bool) -> int:
    from rich.console import Console
    from rich.table import Table

    from agentrl.algorithms import load, names

    found = [load(name) for name in names()]
    if as_json:
        typer.echo(json.dumps([_described(algorithm) for algorithm in found], indent=2))
        return 0
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column()
    for algorithm in found:
        table.add_row(algorithm.name, algorithm.title)
    Console().print(table)
    return 0


@app.command()
@reported
def show(
    name: str = typer.Argument(help="An algorithm's name."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON object."),
) -> int:
    """Show an algorithm: its source, its parts, and what in it is inferred."""
    import yaml
    from rich.console import Console
    from rich.text import Text

    from agentrl.algorithms import load

    algorithm = load(name)
    if as_json:
        typer.echo(json.dumps(_described(algorithm), indent=2))
        return 0
    console = Console(soft_wrap=True, highlight=False)
    console.print(Text.assemble((algorithm.name, "bold cyan"), f"  {algorithm.title}\n{algorithm.paper}"))
    console.print(Text(algorithm.summary))
    if algorithm.not_to_confuse:
        console.print(Text(f"Not to be confused with: {algorithm.not_to_confuse}."))
    _section(console, "Parts", yaml.safe_dump(_set_parts(algorithm), sort_keys=False).splitlines())
    _section(console, "Inferred", algorithm.inferred)
    _section(console, "Differs from its source", algorithm.differs)
    _section(console, "The paper's runs", [f"{key}: {value}" for key, value in algorithm.published.items()])
    return 0


@app.command()
@reported
def diff(
    first: str = typer.Argument(help="An algorithm's name."),
    second: str = typer.Argument(help="Another's."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON object: setting to both values."),
) -> int:
    """Show the settings in which two algorithms differ."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from agentrl.algorithms import differences, load

    found = differences(load(first), load(second))
    if as_json:
        pairs = {key: {first: one, second: other} for key, (one, other) in found.items()}
        typer.echo(json.dumps(pairs, indent=2))
        return 0
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", first, second):
        table.add_column(heading, style="bold" if not heading else "", overflow="fold")
    for key, (one, other) in found.items():
        table.add_row(key, _shown(one), _shown(other))
    Console().print(table if found else Text(f"{first} and {second} have the same settings."))
    return 0


def _described(algorithm: Algorithm) -> dict[str, Any]:
    return algorithm.model_dump(mode="json")


def _set_parts(algorithm: Algorithm) -> dict[str, Any]:
    """The parts, dotted, without what is not there."""
    from agentrl.algorithms import settings_of

    return {key: value for key, value in settings_of(algorithm).items() if value is not None}


def _section(console: Console, title: str, lines: list[str]) -> None:
    from rich.text import Text

    if lines:
        console.print(Text(f"\n{title}", style="bold"))
        for line in lines:
            console.print(Text(f"  {line}"))


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)

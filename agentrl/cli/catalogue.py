"""``agentrl tools`` and ``agentrl envs``: what is installed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from agentrl.cli.settings import load
from agentrl.registry import ENVS, TOOLS, find_tools, names
from agentrl.reward import Reward
from agentrl.task import Task
from agentrl.terms import Term
from agentrl.tool import FunctionTool
from agentrl.view.text import clean


def tools() -> int:
    """Print the installed tools."""
    return _list(TOOLS, "tool")


def envs() -> int:
    """Print the installed environments."""
    return _list(ENVS, "environment")


def show(name: str, words: Sequence[str]) -> int:
    """Print an environment: prompt, tools, rewards and first tasks.

    Raises:
        UsageError: there is no such environment, or it cannot be made with these settings.
    """
    config, env = load(name, words)
    console = Console(soft_wrap=False)
    console.print(Text.assemble((env.name or name, "bold cyan"), f"  {one_line(type(env))}"))
    if config.environment_options:
        console.print(Text(f"options: {config.environment_options}", style="dim"))
    _heading(console, "Prompt")
    console.print(Padding(Text(str(env.prompt or "(none)")), (0, 0, 0, 2)))
    _heading(console, "Tools")
    listed = (tool for item in env.tools for tool in find_tools(item))
    for tool in [*listed, *env.own_tools()]:
        console.print(schema(tool.schema))
    _heading(console, "Rewards")
    for term in env.own_rewards():
        console.print(Text(f"  {_reward(term)}"))
    for split in ("train", "test"):
        _heading(console, f"First tasks of {split}")
        for task in itertools.islice(iter(env.tasks(split)), 3):
            console.print(Padding(_task(task), (0, 0, 0, 2)))
    return 0


def schema(of_tool: Mapping[str, Any]) -> Padding:
    """A tool as the model is told of it."""
    text = json.dumps(of_tool["function"], indent=2, ensure_ascii=False)
    return Padding(Syntax(text, "json", background_color="default", word_wrap=True), (0, 0, 0, 2))


def one_line(found: Any) -> str:
    """What a tool or environment says of itself, on one line.

    Args:
        found: a class or an instance.
    """
    if isinstance(found, FunctionTool):
        text = found.description
    else:
        kind = found if isinstance(found, type) else type(found)
        text = vars(kind).get("__doc__") or getattr(vars(kind).get("call"), "__doc__", None) or ""
    return clean(text.strip().partition("\n")[0], 100)


def _reward(term: Term) -> str:
    if not isinstance(term, Reward):
        return str(term)
    weight = "logged only" if term.weight == 0 else f"weight {term.weight:g}"
    return f"{term.name}  {weight}, per {term.per}"


def _list(group: str, what: str) -> int:
    console = Console()
    found = names(group)
    if not found:
        console.print(f"No {what} is installed.")
        return 0
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold cyan", no_wrap=True)
    table.add_column()
    for name, point in found.items():
        table.add_row(name, _description(point))
    console.print(table)
    return 0


def _description(point: EntryPoint) -> Text:
    try:
        return Text(one_line(point.load()))
    except Exception as problem:  # anybody's package: one that cannot be imported must not hide the others
        return Text(f"cannot be loaded: {type(problem).__name__}: {clean(str(problem))}", style="yellow")


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def _task(task: Task) -> Text:
    text = Text.assemble((f"{clean(task.id, 40)}  ", "dim"), clean(task.prompt, 300))
    if task.answer is not None:
        text.append(f"\n  answer: {clean(str(task.answer), 200)}", style="dim")
    return text

"""Finding or making the model of a command, with its progress shown."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agentrl.config import TrainConfig
from agentrl.env import Env


def locate(config: TrainConfig, env: Env) -> Path:
    """The folder of the model that ``config.model`` names; a model that has to be made shows how far it is.

    Raises:
        AgentRLError: the model cannot be found, fetched or made.
    """
    from agentrl.train.models import find_model

    with warmup_bars(Console(stderr=True)) as bars:
        return find_model(config, env, progress=follower(bars))


def warmup_bars(console: Console) -> Progress:
    """Empty; :func:`follower` adds a bar for each stage of a warm-up."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
    )


def follower(bars: Progress) -> Callable[[Any], None]:
    """What a warm-up tells its progress to: a bar for each stage, or lines where there is no terminal."""
    if not bars.console.is_terminal:
        return partial(_line, bars.console)
    tasks: dict[str, Any] = {}

    def follow(progress: Any) -> None:
        if progress.stage not in tasks:
            tasks[progress.stage] = bars.add_task(f"warm-up: {progress.stage}", total=progress.total, note="")
        note = "" if progress.loss is None else f"loss {progress.loss:.3f}"
        bars.update(tasks[progress.stage], completed=progress.done, note=note)

    return follow


def _line(console: Console, progress: Any) -> None:
    """Ten lines per stage."""
    tenth = max(1, progress.total // 10)
    if progress.done % tenth == 0 or progress.done == progress.total:
        note = "" if progress.loss is None else f", loss {progress.loss:.3f}"
        console.print(f"warm-up: {progress.stage} {progress.done}/{progress.total}{note}", soft_wrap=True)

"""Finding or making the model of a command, with its progress shown."""

from __future__ import annotations

from collections.abc import Callable
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
    """What a warm-up tells its progress to: each stage gets a bar of its own."""
    tasks: dict[str, Any] = {}

    def follow(progress: Any) -> None:
        if progress.stage not in tasks:
            tasks[progress.stage] = bars.add_task(f"warm-up: {progress.stage}", total=progress.total, note="")
        note = "" if progress.loss is None else f"loss {progress.loss:.3f}"
        bars.update(tasks[progress.stage], completed=progress.done, note=note)

    return follow

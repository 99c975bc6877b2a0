"""``agentrl eval``: measures a model on an environment."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from agentrl.cli.models import locate
from agentrl.cli.settings import load, refuse
from agentrl.config import TrainConfig
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.evaluate import EpisodeResult, EvalResult
from agentrl.evaluate import evaluate as run_evaluation
from agentrl.events import FileSink
from agentrl.rollout.control import check_control
from agentrl.rollout.control_part import Control
from agentrl.store import RunFolder, keep_pictures, writing
from agentrl.task import Task
from agentrl.train.algorithm import plan
from agentrl.trajectory import Trajectory
from agentrl.view.summary import versions
from agentrl.view.text import clean, duration, interval, percent

INTERRUPTED = 130
UNUSED = ("algorithm", "steps", "checkpoint", "resume", "verl")
CONTROL = ("algorithm.rollout=", "algorithm.rollout.")
"""The one part of an algorithm that an evaluation carries out, too."""


def evaluate(env: str, words: Sequence[str], *, split: str = "test", plain: bool = False) -> int:
    """Run the command; returns the exit code.

    Raises:
        AgentRLError: a setting does not fit, a model or task cannot be read, or machines failed.
    """
    refuse([word for word in words if not word.startswith(CONTROL)], UNUSED, "eval")
    if split not in ("train", "test"):
        raise ConfigError(f"--split {split}: a split is train or test.")
    config, environment = load(env, words)
    tasks = list(itertools.islice(iter(environment.tasks(split)), config.eval.tasks))
    if not tasks:
        raise ConfigError(f"Environment {environment.name} has no tasks in split {split!r}.")
    check_control(control := plan(config.algorithm).control, environment)
    model = locate(config, environment)
    run = RunFolder.create(config.runs, config.env, config, kind="eval")
    console = Console()
    try:
        result = asyncio.run(
            _play(config, environment, model, tasks, split, run, console, control, plain=plain)
        )
    except KeyboardInterrupt:
        sys.stderr.write(f"Interrupted. The episodes that ended are in {run.episodes}.\n")
        return INTERRUPTED
    run.write_json(run.summary, summarize(config, run, result, split, model))
    show(result, run, console, plain=plain)
    return 0


async def _play(
    config: TrainConfig,
    env: Env,
    model: Path,
    tasks: Sequence[Task],
    split: str,
    run: RunFolder,
    console: Console,
    control: Control,
    *,
    plain: bool,
) -> EvalResult:
    from agentrl.chat import Chat
    from agentrl.rollout.vllm_policy import VllmPolicy
    from agentrl.train.runtime import open_sandbox_if_any

    limits, hardware = config.rollout, config.hardware
    chat = Chat.load(str(model), renderer=limits.renderer)
    total = len(tasks) * config.eval.samples
    tally: Tally = (
        BarTally(console, total) if console.is_terminal and not plain else LineTally(console, total)
    )
    events = FileSink(run.events, "eval")
    sandbox = open_sandbox_if_any(config)
    tally.say(f"Starting vLLM with {model}")
    policy = await VllmPolicy.open(
        str(model),
        device=hardware.device,
        memory=hardware.engine_memory,
        tensor_parallel=hardware.tensor_parallel,
        max_tokens=limits.max_prompt_tokens + limits.max_trajectory_tokens,
        concurrency=min(limits.concurrency, total),
        vision=chat.vision,
    )
    try:
        with EpisodeLog(run.episodes) as log, tally:

            def on_episode(result: EpisodeResult, trajectory: Trajectory) -> None:
                log.add(result, trajectory)
                keep_pictures(run.path, trajectory.pictures.values())
                tally.add(result)

            return await run_evaluation(
                env,
                chat,
                policy,
                limits,
                tasks,
                samples=config.eval.samples,
                split=split,
                seed=config.seed,
                temperature=config.eval.temperature,
                sandbox=sandbox,
                events=events,
                on_episode=on_episode,
                control=control,
            )
    finally:
        await policy.close()
        if sandbox is not None:
            await sandbox.close()
        events.close()


class EpisodeLog:
    """``episodes.jsonl``: one line per episode as it ends, with its dialogue, without its tokens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            # halves of surrogate pairs, as in names of files that are no text, are escaped as JSON has it
            self._file = path.open("w", encoding="utf-8", errors="backslashreplace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self._file.close()

    def add(self, result: EpisodeResult, trajectory: Trajectory) -> None:
        """Write an episode.

        Raises:
            ConfigError: the disk is full.
        """
        record = trajectory.to_dict()
        del record["segments"]
        with writing(self.path):
            self._file.write(json.dumps({**result.to_dict(), **record}, ensure_ascii=False) + "\n")
            self._file.flush()


@dataclass
class _Counts:
    done: int = 0
    solved: int = 0
    void: int = 0

    def add(self, result: EpisodeResult) -> None:
        self.done += 1
        self.solved += result.success
        self.void += result.status == "void"

    @property
    def text(self) -> str:
        judged = self.done - self.void
        rate = percent(self.solved / judged) if judged else "–"
        return f"solved {rate}" + (f", {self.void} void" if self.void else "")


class Tally(Protocol):
    """Shows how far an evaluation is."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *problem: object) -> None: ...

    def say(self, message: str) -> None:
        """Tell what is going on."""

    def add(self, result: EpisodeResult) -> None:
        """Count an episode."""


class BarTally:
    """A progress bar."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._counts = _Counts()
        self._bar = Progress(
            TextColumn("[bold]episodes"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._id = self._bar.add_task("episodes", total=total, rate="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Print the message."""
        self._console.print(Text(clean(message), style="dim"))

    def add(self, result: EpisodeResult) -> None:
        """Advance the bar."""
        self._counts.add(result)
        self._bar.update(self._id, completed=self._counts.done, rate=self._counts.text)


@dataclass
class LineTally:
    """A line for every tenth of the episodes."""

    console: Console
    total: int
    counts: _Counts = field(default_factory=_Counts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None: ...

    def say(self, message: str) -> None:
        """Write the message as a line."""
        self.console.file.write(clean(message) + "\n")
        self.console.file.flush()

    def add(self, result: EpisodeResult) -> None:
        """Count, and write a line if another tenth is done."""
        before = self.counts.done * 10 // self.total
        self.counts.add(result)
        if self.counts.done * 10 // self.total > before:
            self.say(f"{self.counts.done}/{self.total} episodes, {self.counts.text}")


def summarize(
    config: TrainConfig, run: RunFolder, result: EvalResult, split: str, model: Path
) -> dict[str, Any]:
    """What ``summary.json`` of an evaluation holds."""
    return {
        **result.to_dict(),
        "env": config.env,
        "model": config.model,
        "model_folder": str(model),
        "split": split,
        "seed": config.seed,
        "run": run.name,
        "versions": versions(),
    }


def rows(result: EvalResult) -> list[tuple[str, str]]:
    """What was measured, as pairs of a name and a text."""
    found = [
        ("success", f"{result.success:.1%} {interval(result.low, result.high)} of {result.episodes} episodes")
    ]
    if result.samples > 1:
        found.append(("pass@k", "  ".join(f"@{k} {value:.1%}" for k, value in result.pass_at.items())))
    found += [
        ("reward", f"{result.reward:+.3f}"),
        (
            "episode",
            f"{result.turns:.1f} turns, {result.calls:.1f} calls "
            f"({percent(result.call_error_share)} errors), "
            f"{result.tokens:.0f} tokens",
        ),
        ("truncated", f"{result.truncated}"),
        ("took", duration(result.seconds)),
    ]
    if result.void:
        found.append(("void", f"{result.void} episodes that machines failed: left out, not counted as wrong"))
    return found


def show(result: EvalResult, run: RunFolder, console: Console, *, plain: bool) -> None:
    """Print the outcome: a panel in a terminal, lines elsewhere."""
    lines = [*rows(result), ("run folder", str(run.path))]
    if plain or not console.is_terminal:
        console.file.writelines(f"{name}: {text}\n" for name, text in lines)
        console.file.flush()
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(name, Text(text))
    console.print(Panel(table, title="evaluation", title_align="left", border_style="cyan", expand=False))

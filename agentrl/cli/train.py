"""``agentrl train``: starts the training, shows it, and sums it up."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, Self

import typer
import yaml
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from agentrl.cli.models import locate
from agentrl.cli.settings import load, load_resumed
from agentrl.config import TrainConfig, parse_overrides
from agentrl.errors import ConfigError
from agentrl.events import Event, EventReader, StepFinished
from agentrl.store import RunFolder, writing
from agentrl.view import summary as summaries
from agentrl.view.curve import draw_curve
from agentrl.view.plain import PlainView
from agentrl.view.state import RunState, Step
from agentrl.view.terminal import Heading, TerminalView, View

INTERRUPTED = 130


class TrainingProcess(Protocol):
    """A training that runs in processes of its own."""

    def start(self) -> None:
        """Start it."""

    def poll(self) -> int | None:
        """Its exit code; ``None`` while it runs."""

    def interrupt(self) -> None:
        """Ask it to save a checkpoint and end."""

    def kill(self) -> None:
        """End it at once, with everything it started."""

    def failure(self) -> str | None:
        """Why it failed, for a person to read; ``None`` if it did not."""


def train(env: str, words: Sequence[str], *, dry_run: bool = False, plain: bool = False) -> int:
    """Run the command; returns the exit code.

    Raises:
        UsageError: a setting does not fit, or something that was named does not exist.
    """
    run: RunFolder | None = None
    if parse_overrides(words).get("resume") is not None:
        config, environment, run = load_resumed(env, words)
    else:
        config, environment = load(env, words)
    from agentrl.train.algorithm import plan
    from agentrl.train.shaping import shape_of

    shape_of(plan(config.algorithm).shaping, environment, config.steps)  # refuses rewards that do not fit
    if dry_run:
        from agentrl.train.resolve import check, resolve

        folder = Path(config.runs) / "RUN" if run is None else run.path
        resolved = resolve(config, model=config.model, run=str(folder))
        typer.echo("Checking with verl ...", err=True)
        check(resolved)
        typer.echo(_as_yaml(config, resolved), nl=False)
        return 0
    from agentrl.train.launch import Training

    model = locate(config, environment)
    if run is None:
        run = RunFolder.create(config.runs, config.env, config)
    return watch(config, run, Training(config, run.path, model), Console(), plain=plain)


def _as_yaml(config: TrainConfig, resolved: Any) -> str:
    from omegaconf import OmegaConf

    whole = {
        "agentrl": config.model_dump(mode="json"),
        "verl": OmegaConf.to_container(resolved, resolve=True),
    }
    return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class Ending:
    """How a training ended."""

    outcome: summaries.Outcome
    reason: str | None = None


def watch(
    config: TrainConfig, run: RunFolder, training: TrainingProcess, console: Console, *, plain: bool
) -> int:
    """Run ``training`` to its end under a live view, then sum it up.

    Args:
        config: the settings.
        run: where events come from and results go.
        training: not started yet.
        console: where to show it; a panel in a terminal, lines elsewhere.
        plain: lines in a terminal, too.

    Returns:
        The exit code: 0 only if it trained and the doctor passed; 130 if it was interrupted.
    """
    live = console.is_terminal and not plain
    heading = Heading(config.env, config.model, config.algorithm.name, str(run.path))
    view: View = TerminalView(console, heading) if live else PlainView(console.file, heading)
    expected = {
        "training": config.algorithm.tasks_per_step * config.algorithm.group_size,
        "evaluating": config.eval.tasks * config.eval.samples,
    }
    state = RunState(config.steps, expected)
    reader = EventReader(run.events)
    state.add_all(reader.poll())  # of the run that is gone on with
    state.steps = config.steps
    started = time.monotonic()
    ending = follow(training, reader, state, view, MetricsFile(run.metrics, state))
    return conclude(config, run, state, ending, time.monotonic() - started, console, live=live)


def follow(
    training: TrainingProcess,
    reader: EventReader,
    state: RunState,
    view: View,
    metrics: MetricsFile,
    seconds: float = 0.25,
) -> Ending:
    """Start the training and show its events every ``seconds`` until it ends.

    The first Ctrl-C (or SIGTERM, or a closed terminal) asks it to save and end, the second ends it
    at once. Whatever happens here, it does not outlive this call.
    """
    answered, ended = 0, False
    with view, Signals() as signals:
        try:
            training.start()
            while not ended:
                code = training.poll()  # before reading: what was written before the end is read
                _show(reader, state, view, metrics)
                ended = code is not None
                asked = signals.count  # read once: the next request may come at any time
                if asked > answered and not ended:
                    ended = _respond(training, view, asked)
                    answered = asked
                elif not ended:
                    time.sleep(seconds)
        finally:
            if not ended:
                training.kill()
        _show(reader, state, view, metrics)
    if answered:
        return Ending("interrupted")
    return (
        Ending("trained")
        if code == 0
        else Ending("failed", training.failure() or f"it ended with exit code {code}")
    )


def _show(reader: EventReader, state: RunState, view: View, metrics: MetricsFile) -> None:
    events = read(reader, state)
    view.update(state, events)
    metrics.add(events, state)


def _respond(training: TrainingProcess, view: View, count: int) -> bool:
    """Do what was asked for by ``count`` requests; returns whether that was the end."""
    if count == 1:
        view.say("Interrupted: saving a checkpoint, then ending. Once more to end at once, without saving.")
        training.interrupt()
        return False
    view.say("Ending at once.")
    training.kill()
    return True


def read(reader: EventReader, state: RunState) -> list[Event]:
    """The new events, counted in ``state``. A line that is no event is a warning: the run goes on."""
    events: list[Event] = []
    try:
        events.extend(reader.poll())
    except (ValueError, KeyError, TypeError, OSError) as problem:
        state.notes.append(f"some events could not be read ({type(problem).__name__}: {problem})")
    return state.add_all(events)


class Signals:
    """Counts requests to stop, instead of letting them end this process."""

    NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for name in self.NAMES:
            number = getattr(signal, name, None)
            if number is not None:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *problem: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


class MetricsFile:
    """``metrics.jsonl``: one line per step, in order, each step once, also where a run was gone on with.

    A disk that cannot take it is told of once, and does not stop the training.
    """

    def __init__(self, path: Path, state: RunState) -> None:
        self.path = path
        self._last = 0
        self._broken = False
        self._write(state, list(state.history.values()), "w")

    def add(self, events: Sequence[Event], state: RunState) -> None:
        """Write the steps among ``events``, which ``state`` already counts."""
        steps = [state.history[event.step] for event in events if isinstance(event, StepFinished)]
        if not steps or self._broken:
            return
        if steps[0].index > self._last:
            self._write(state, steps, "a")
        else:  # steps were taken anew after a restart
            self._write(state, list(state.history.values()), "w")

    def _write(self, state: RunState, steps: list[Step], mode: str) -> None:
        ordered = sorted(steps, key=lambda step: step.index)
        try:
            with writing(self.path), self.path.open(mode, encoding="utf-8") as file:
                file.writelines(metrics_line(step) + "\n" for step in ordered)
        except ConfigError as problem:
            self._broken = True
            state.notes.append(str(problem))
        self._last = max((step.index for step in ordered), default=self._last)


def metrics_line(step: Step) -> str:
    """A step as a line of ``metrics.jsonl``."""
    return json.dumps({"step": step.index, "time": step.time, **step.metrics})


def conclude(
    config: TrainConfig,
    run: RunFolder,
    state: RunState,
    ending: Ending,
    seconds: float,
    console: Console,
    *,
    live: bool,
) -> int:
    """Write ``summary.json`` and ``learning_curve.png``, tell the outcome, and return the exit code."""
    summary = summaries.summarize(config, run, state, ending.outcome, seconds, ending.reason)
    run.write_json(run.summary, summary)
    if state.history or state.evaluations:
        try:
            draw_curve(state, run.curve, f"{config.env} · {config.model} · {config.algorithm.name}")
        except ImportError:
            sys.stderr.write(
                "No learning_curve.png: matplotlib is not installed (pip install 'agentrl[view]').\n"
            )
    if live:
        console.print(summaries.panel(summary, run))
    else:
        for line in summaries.lines(summary, run):
            console.file.write(line + "\n")
        console.file.flush()
    if ending.outcome == "failed":
        _tell_failure(config, run, state, str(ending.reason))
    if ending.outcome == "interrupted":
        return INTERRUPTED
    return 0 if ending.outcome == "trained" and summary["doctor"] == "pass" else 1


def _tell_failure(config: TrainConfig, run: RunFolder, state: RunState, reason: str) -> None:
    text = Text(f"{reason.strip()}\n\nThe log: {run.log}")
    if state.checkpoint is not None:
        text.append(
            f"\nGo on from step {state.checkpoint.step}: agentrl train {config.env} resume={run.path}"
        )
    errors = Console(stderr=True)
    if errors.is_terminal:
        errors.print(Panel(text, title="the training failed", title_align="left", border_style="red"))
        return
    sys.stderr.write(f"The training failed: {text.plain}\n")

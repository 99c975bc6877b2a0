"""The live view of a training run in a terminal."""

from __future__ import annotations

import os
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agentrl.events import EvalFinished, Event
from agentrl.view.state import PARTS, RunState, ToolUse, dropped_groups, failed_checks, staleness_shares
from agentrl.view.text import cells, clean, duration, interval, percent, sparkline

PART_COLOURS = dict(zip(PARTS, ("cyan", "yellow", "green", "magenta", "blue", "bright_black"), strict=True))
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


@dataclass(frozen=True)
class Heading:
    """What a view is about, in words."""

    env: str
    model: str
    algorithm: str
    run: str

    @property
    def line(self) -> str:
        """Environment, model and algorithm on one line."""
        return clean(" · ".join(part for part in (self.env, self.model, self.algorithm) if part))


class View(Protocol):
    """Something that shows a run while it goes on."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *problem: object) -> None: ...

    def update(self, state: RunState, events: Sequence[Event]) -> None:
        """Show ``state``, which already counts the new ``events``."""

    def say(self, message: str) -> None:
        """Tell the person something now."""


class TerminalView:
    """A panel that is redrawn in place; made for a terminal."""

    def __init__(self, console: Console, heading: Heading) -> None:
        self.console = console
        self.heading = heading
        self.messages: list[str] = []
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._keys = _SilentKeys()

    def __enter__(self) -> Self:
        self._keys.start()
        self._live.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._live.stop()
        self._keys.stop()

    def update(self, state: RunState, events: Sequence[Event]) -> None:
        """Redraw."""
        self._live.update(dashboard(state, self.heading, time.time(), self.messages), refresh=True)

    def say(self, message: str) -> None:
        """Keep the message at the foot of the panel."""
        self.messages.append(message)


class _SilentKeys:
    """Keeps keys that are pressed, ``^C`` above all, from being echoed into the panel."""

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    def start(self) -> None:
        """Turn echo off, where standard input is a terminal and ours."""
        try:
            before = termios.tcgetattr(sys.stdin.fileno())
        except (termios.error, OSError, ValueError):  # no terminal: nothing is echoed
            return
        if self._in_foreground():
            silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, silent)
            self._before = before

    def stop(self) -> None:
        """Put it back as it was."""
        if self._before is not None and self._in_foreground():
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)

    @staticmethod
    def _in_foreground() -> bool:
        """A job in the background is stopped by its shell if it changes the terminal."""
        try:
            return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
        except OSError:  # the terminal was closed
            return False


def dashboard(state: RunState, heading: Heading, now: float, messages: Sequence[str] = ()) -> RenderableType:
    """The panel.

    Args:
        state: the run so far.
        heading: what the run is.
        now: the time the panel shows, in seconds since the epoch.
        messages: lines from the program itself, shown last.
    """
    rows = Table.grid(padding=(0, 2), expand=True)
    rows.add_column(style="bold", no_wrap=True, min_width=8)
    rows.add_column(ratio=1)
    for label, content in (
        ("success", _success(state)),
        ("reward", _trend(state, "reward/mean", "{:+.3f}")),
        ("episodes", _episodes(state)),
        ("tools", _tools(state)),
        ("speed", _speed(state)),
        ("time", _where_time_goes(state)),
        ("behind", _staleness(state)),
        ("doctor", _doctor(state)),
    ):
        if content is not None:
            rows.add_row(label, content)
    foot = [Text(f"! {clean(note)}", style="yellow") for note in list(state.notes)[-3:]]
    foot += [Text(clean(message, 400), style="bold") for message in messages[-3:]]
    parts: list[RenderableType] = [_stage_line(state, now), Text(), rows]
    if foot:
        parts += [Text(), *foot]
    return Panel(
        Padding(Group(*parts), (0, 1)),
        title=Text.assemble(("agentrl ", "bold cyan"), heading.line),
        title_align="left",
        subtitle=Text(clean(heading.run), style="dim"),
        subtitle_align="left",
        border_style="red" if state.doctor_failed else "cyan",
    )


def _stage_line(state: RunState, now: float) -> RenderableType:
    spinner = _SPINNER[int(now * 8) % len(_SPINNER)]
    stage = Text.assemble(
        (f"{spinner} ", "cyan"), (clean(state.stage), "bold"), no_wrap=True, overflow="ellipsis"
    )
    if state.detail:
        stage.append(f"  {clean(state.detail, 60)}", style="dim")
    left = state.seconds_left(now)
    clock = Text(f"{duration(now - state.seed_time)} so far", style="dim")
    if left is not None:
        clock.append(f" · about {duration(left)} of steps left", style="default")
    elif not state.history and now - state.stage_since >= 1:
        clock.append(f" · {duration(now - state.stage_since)} in this stage")
    top = Table.grid(expand=True, padding=(0, 2))
    top.add_column(ratio=1)
    top.add_column(justify="right", no_wrap=True)
    top.add_row(stage, clock)
    if not state.steps:
        return top
    bar = Table.grid(expand=True, padding=(0, 2))
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    bar.add_row(
        Text(f"step {state.done}/{state.steps}", style="bold"),
        ProgressBar(total=state.steps, completed=state.done, complete_style="cyan", finished_style="green"),
        percent(state.done / state.steps),
    )
    return Group(top, bar)


def _success(state: RunState) -> RenderableType | None:
    trend = _trend(state, "success/mean", "{:.1%}", low=0.0, high=1.0)
    held_out = [_held_out(event) for event in (state.before, state.after) if event is not None]
    parts = [part for part in (trend, *held_out) if part is not None]
    return Group(*parts) if parts else None


def _held_out(event: EvalFinished) -> Text:
    when = "before training" if event.step == 0 else f"after step {event.step}"
    return Text.assemble(
        ("held-out ", "dim"),
        (f"{event.success:.1%}", "bold green"),
        (f" {interval(event.low, event.high)} {when}, {event.episodes} episodes", "dim"),
    )


class _Trend:
    """The newest value and a sparkline as wide as there is room."""

    def __init__(self, values: Sequence[float], form: str, low: float | None, high: float | None) -> None:
        self.values, self.form, self.low, self.high = values, form, low, high

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        newest = self.form.format(self.values[-1]).rjust(7)
        line = sparkline(self.values, min(options.max_width - len(newest) - 2, 60), self.low, self.high)
        yield Text.assemble((newest, "bold"), "  ", (line, "green"), no_wrap=True)


def _trend(
    state: RunState, key: str, form: str, low: float | None = None, high: float | None = None
) -> RenderableType | None:
    values = state.series(key)
    return _Trend(values, form, low, high) if values else None


def _episodes(state: RunState) -> Text | None:
    if not state.episodes and not state.voided and not state.retried:
        return None
    text = Text.assemble((f"{state.episodes:,}", "bold"), " finished")
    expected = state.expected.get(state.stage, 0)
    if state.episodes_here and expected:
        where = "step" if state.stage == "training" else "stage"
        text.append(f" · {state.episodes_here:,}/{expected:,} in this {where}")
    text.append(f" · {state.truncated:,} truncated")
    text.append(f" · {state.voided:,} voided", style="bold red" if state.voided else "")
    if state.retried:
        text.append(f" · {state.retried:,} retried", style="yellow")
    if state.void_reason:
        text.append(f"  last: {clean(state.void_reason, 80)}", style="dim")
    return text


def _tools(state: RunState) -> RenderableType | None:
    calls = state.calls
    if not calls.calls:
        return None
    total = Text.assemble(
        (f"{calls.calls:,}", "bold"),
        " calls · ",
        (f"{percent(calls.error_share)} errors", "yellow" if calls.error_share > 0.2 else ""),
    )
    busiest = sorted(state.tools.items(), key=lambda item: (-item[1].calls, item[0]))
    parts = [total, *(_tool(name, use) for name, use in busiest[:4])]
    if len(busiest) > 4:
        parts.append(Text(f"and {len(busiest) - 4} more", style="dim"))
    return Columns(parts, padding=(0, 2))


def _tool(name: str, use: ToolUse) -> Text:
    errors = f" ({percent(use.error_share)} errors)" if use.errors else ""
    return Text.assemble((f"{clean(name, 24)} ", "cyan"), f"{use.calls:,}", (errors, "dim"))


def _speed(state: RunState) -> Text | None:
    last = state.last
    if last is None:
        return None
    parts = []
    if "tokens/per_second" in last.metrics:
        parts.append(f"{last.metrics['tokens/per_second']:,.0f} tokens/s")
    if "time/step" in last.metrics:
        parts.append(f"{duration(last.metrics['time/step'])} a step")
    if "calls/mean" in last.metrics:
        parts.append(f"{last.metrics['calls/mean']:.1f} calls an episode")
    return Text(" · ".join(parts)) if parts else None


class _TimeBar:
    """Where the last step's time went: a bar of the terminal's width, and its legend."""

    def __init__(self, shares: dict[str, float]) -> None:
        self.shares = shares

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar, legend = Text(no_wrap=True), []
        for (name, share), count in zip(
            self.shares.items(), cells(list(self.shares.values()), min(options.max_width, 60)), strict=True
        ):
            bar.append("█" * count, style=PART_COLOURS[name])
            legend.append(Text.assemble(("■ ", PART_COLOURS[name]), f"{name} {percent(share)}"))
        yield bar
        yield Columns(legend, padding=(0, 2))


def _where_time_goes(state: RunState) -> RenderableType | None:
    last = state.last
    return _TimeBar(last.parts) if last is not None and last.parts else None


def _staleness(state: RunState) -> Text | None:
    """How far behind the last step's tokens were, and what was given up so far."""
    event = state.staleness
    if event is None:
        return None
    text = Text(staleness_shares(event))
    text.append(f"  (bound {event.bound})", style="dim")
    if state.dropped:
        text.append(f" · {dropped_groups(state.dropped)}", style="yellow")
    return text


def _doctor(state: RunState) -> Text | None:
    report = state.doctor
    if report is None:
        return None
    failed = failed_checks(report)
    if report.passed and not state.doctor_failed:
        return Text.assemble(
            ("pass", "bold green"), (f"  {len(report.checks)} checks at step {report.step}", "dim")
        )
    if not failed:
        return Text("failed at an earlier step", style="bold red")
    name, why = next(iter(failed.items()))
    more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return Text.assemble(("fail", "bold red"), f"  step {report.step}: {clean(name)}: {clean(why)}{more}")

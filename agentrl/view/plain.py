"""A training run as lines of text, for logs and pipes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import IO, Self

from agentrl.events import (
    CheckpointSaved,
    DoctorReported,
    EpisodeVoided,
    EvalFinished,
    Event,
    StageStarted,
    StalenessReported,
    StepFinished,
    Warned,
)
from agentrl.view.state import RunState, Step, dropped_groups, failed_checks, staleness_shares
from agentrl.view.terminal import Heading
from agentrl.view.text import clean, duration, interval, percent


class PlainView:
    """One line per stage, step, evaluation and warning, each flushed at once."""

    def __init__(self, stream: IO[str], heading: Heading) -> None:
        self.stream = stream
        self.heading = heading
        self.started = time.time()

    def __enter__(self) -> Self:
        self._line(time.time(), f"agentrl: {self.heading.line}; run folder {self.heading.run}")
        return self

    def __exit__(self, *problem: object) -> None:
        self.stream.flush()

    def update(self, state: RunState, events: Sequence[Event]) -> None:
        """Write the lines of the new events."""
        for event in events:
            text = describe(event, state)
            if text:
                self._line(event.time, text)

    def say(self, message: str) -> None:
        """Write the message as a line."""
        self._line(time.time(), message)

    def _line(self, moment: float, text: str) -> None:
        self.stream.write(f"[{duration(moment - self.started):>7}] {text}\n")
        self.stream.flush()


def describe(event: Event, state: RunState) -> str:
    """A line for an event, or nothing for those that come by the thousand.

    Args:
        event: the event.
        state: the run, which already counts it.
    """
    if isinstance(event, StageStarted):
        return clean(event.stage) + (f": {clean(event.detail)}" if event.detail else "")
    if isinstance(event, StepFinished):
        return _step_line(event, state)
    if isinstance(event, StalenessReported):
        return _staleness_line(event)
    if isinstance(event, EvalFinished):
        return (
            f"held-out at step {event.step}: success {event.success:.1%} {interval(event.low, event.high)} "
            f"reward {event.reward:+.3f} ({event.episodes} episodes)"
        )
    if isinstance(event, DoctorReported):
        wrong = "; ".join(f"{clean(name)}: {clean(why)}" for name, why in failed_checks(event).items())
        return f"doctor at step {event.step}: {'pass' if event.passed else f'FAIL {wrong}'.rstrip()}"
    if isinstance(event, CheckpointSaved):
        return f"checkpoint at step {event.step}: {clean(event.path)}"
    if isinstance(event, Warned):
        return f"warning: {clean(event.message)}"
    if isinstance(event, EpisodeVoided) and event.final:
        return f"episode voided (task {clean(event.task, 40)}): {clean(event.reason)}"
    return ""


def _step_line(event: StepFinished, state: RunState) -> str:
    metrics = event.metrics
    step = Step(event.step, metrics, event.time)
    parts = [f"step {event.step}/{event.steps}"]
    for key, form in (
        ("success/mean", "success {:.1%}"),
        ("reward/mean", "reward {:+.3f}"),
        ("calls/mean", "calls {:.1f}"),
        ("tokens/per_second", "{:,.0f} tokens/s"),
    ):
        if key in metrics:
            parts.append(form.format(metrics[key]))
    if "time/step" in metrics:
        where = ", ".join(f"{name} {percent(share)}" for name, share in step.parts.items() if share >= 0.005)
        parts.append(duration(metrics["time/step"]) + (f" ({where})" if where else ""))
    if metrics.get("truncated"):
        parts.append(f"truncated {percent(metrics['truncated'])}")
    if metrics.get("voided"):
        parts.append(f"voided {metrics['voided']:.0f}")
    left = state.seconds_left(event.time)
    if left is not None and event.step < event.steps:
        parts.append(f"left {duration(left)}")
    return "  ".join(parts)


def _staleness_line(event: StalenessReported) -> str:
    parts = [f"staleness at step {event.step}: {staleness_shares(event)}", dropped_groups(event.dropped)]
    return "; ".join(filter(None, parts))

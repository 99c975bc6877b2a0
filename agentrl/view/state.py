"""A run so far, folded from its events: what every view shows."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from agentrl.events import (
    CheckpointSaved,
    DoctorReported,
    EpisodeFinished,
    EpisodeVoided,
    EvalFinished,
    Event,
    StageStarted,
    StalenessReported,
    StepFinished,
    ToolCalled,
    TurnGenerated,
    Warned,
)
from agentrl.view.text import percent

PARTS = {
    "generation": "time/generate",
    "tools": "time/tools",
    "training": "time/train",
    "weight sync": "time/sync",
    "checkpoint": "time/checkpoint",
    "other": "time/other",
}
"""Where a step's seconds go: the name people read, and the metric that holds it."""

_TOOL_NAMES = 64
_NOTES = 50


@dataclass
class ToolUse:
    """How often a tool was called, and how many calls were not answered ``ok``."""

    calls: int = 0
    errors: int = 0

    @property
    def error_share(self) -> float:
        """Errors over calls; 0 without calls."""
        return self.errors / self.calls if self.calls else 0.0


@dataclass(frozen=True)
class Step:
    """A finished training step. ``metrics`` are its finite ones; ``time`` is seconds since the epoch."""

    index: int
    metrics: dict[str, float]
    time: float

    @property
    def parts(self) -> dict[str, float]:
        """The share of the step's time that each of :data:`PARTS` took, those that took any."""
        seconds = {name: self.metrics.get(key, 0.0) for name, key in PARTS.items()}
        total = sum(value for value in seconds.values() if value > 0)
        return {name: value / total for name, value in seconds.items() if value > 0}


@dataclass
class RunState:
    """Everything the views show. Memory stays bounded: counts, one entry per step, and the last notes.

    Args:
        steps: how many steps are planned.
        expected: how many episodes a stage plays: ``training`` in a step, ``evaluating`` in all.
        seed_time: when following began, in seconds since the epoch.
    """

    steps: int = 0
    expected: Mapping[str, int] = field(default_factory=dict)
    seed_time: float = field(default_factory=time.time)
    stage: str = "starting"
    detail: str = ""
    stage_since: float = 0.0
    history: dict[int, Step] = field(default_factory=dict)
    evaluations: dict[int, EvalFinished] = field(default_factory=dict)
    staleness: StalenessReported | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    doctor: DoctorReported | None = None
    doctor_failed: bool = False
    checkpoint: CheckpointSaved | None = None
    tools: dict[str, ToolUse] = field(default_factory=dict)
    calls: ToolUse = field(default_factory=ToolUse)
    episodes: int = 0
    episodes_here: int = 0
    truncated: int = 0
    voided: int = 0
    retried: int = 0
    void_reason: str = ""
    turns: int = 0
    tokens: int = 0
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=_NOTES))

    def __post_init__(self) -> None:
        self.stage_since = self.seed_time

    def add(self, event: Event) -> None:
        """Take one event into account."""
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def add_all(self, events: Iterable[Event]) -> list[Event]:
        """Take events into account in the order of their times; returns them in that order."""
        ordered = sorted(events, key=lambda event: event.time)
        for event in ordered:
            self.add(event)
        return ordered

    @property
    def last(self) -> Step | None:
        """The newest step, if there is one."""
        return self.history[max(self.history)] if self.history else None

    @property
    def done(self) -> int:
        """How many steps are finished."""
        return max(self.history, default=0)

    def series(self, key: str) -> list[float]:
        """One metric over the steps that have it, in order."""
        return [step.metrics[key] for _, step in sorted(self.history.items()) if key in step.metrics]

    @property
    def before(self) -> EvalFinished | None:
        """Held-out success before training: measured at step 0."""
        return self.evaluations.get(0)

    @property
    def after(self) -> EvalFinished | None:
        """The newest held-out success after some training."""
        newest = max(self.evaluations, default=0)
        return self.evaluations[newest] if newest > 0 else None

    def seconds_left(self, now: float) -> float | None:
        """Seconds that the remaining steps will take, judging by the last ones; ``None`` if unknown."""
        last = self.last
        seconds = [step.metrics["time/step"] for step in self._newest(8) if "time/step" in step.metrics]
        if last is None or not seconds:
            return None
        typical = median(seconds)
        return max(0.0, (self.steps - last.index) * typical - min(max(0.0, now - last.time), typical))

    def _newest(self, count: int) -> list[Step]:
        return [self.history[index] for index in sorted(self.history)[-count:]]

    def _stage(self, event: StageStarted) -> None:
        self.stage, self.detail, self.stage_since = event.stage, event.detail, event.time
        self.episodes_here = 0

    def _turn(self, event: TurnGenerated) -> None:
        self.turns += 1
        self.tokens += event.tokens

    def _call(self, event: ToolCalled) -> None:
        # A model may invent any number of names.
        name = event.tool if event.tool in self.tools or len(self.tools) < _TOOL_NAMES else "(other names)"
        for use in (self.tools.setdefault(name, ToolUse()), self.calls):
            use.calls += 1
            use.errors += event.status != "ok"

    def _episode(self, event: EpisodeFinished) -> None:
        self.episodes += 1
        self.episodes_here += 1
        self.truncated += event.status == "truncated"

    def _void(self, event: EpisodeVoided) -> None:
        self.voided += event.final
        self.retried += not event.final
        self.void_reason = event.reason

    def _step(self, event: StepFinished) -> None:
        self.steps = event.steps
        finite = {name: float(value) for name, value in event.metrics.items() if math.isfinite(value)}
        self.history[event.step] = Step(event.step, finite, event.time)
        self.episodes_here = 0

    def _stale(self, event: StalenessReported) -> None:
        self.staleness = event
        self.dropped.update(event.dropped)

    def _evaluation(self, event: EvalFinished) -> None:
        self.evaluations[event.step] = event
        self.episodes_here = 0

    def _doctor(self, event: DoctorReported) -> None:
        self.doctor = event
        self.doctor_failed = self.doctor_failed or not event.passed

    def _checkpoint(self, event: CheckpointSaved) -> None:
        self.checkpoint = event

    def _warning(self, event: Warned) -> None:
        self.notes.append(event.message)


_HANDLERS: dict[type[Event], Any] = {
    StageStarted: RunState._stage,
    TurnGenerated: RunState._turn,
    ToolCalled: RunState._call,
    EpisodeFinished: RunState._episode,
    EpisodeVoided: RunState._void,
    StepFinished: RunState._step,
    StalenessReported: RunState._stale,
    EvalFinished: RunState._evaluation,
    DoctorReported: RunState._doctor,
    CheckpointSaved: RunState._checkpoint,
    Warned: RunState._warning,
}


def staleness_shares(event: StalenessReported) -> str:
    """The share of a step's tokens by how many updates they are behind."""
    total = max(1, sum(event.tokens.values()))
    return ", ".join(f"{lag} behind {percent(count / total)}" for lag, count in event.tokens.items())


def dropped_groups(counts: Mapping[str, int]) -> str:
    """How many groups were given up, and why; nothing if none were."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return f"groups given up: {reasons}" if reasons else ""


def failed_checks(event: DoctorReported) -> dict[str, str]:
    """The doctor's checks that did not pass, with what is wrong."""
    if event.passed:
        return {}
    return {name: verdict for name, verdict in event.checks.items() if verdict != "pass"}

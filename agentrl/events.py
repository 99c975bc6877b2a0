"""Everything that happens in a run, as one stream of typed events.

Each process appends its events to a file of its own in the run folder; the terminal, metrics
and the doctor read them. Writing never waits: a full queue drops events and says how many.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. ``time`` is seconds since the epoch."""

    time: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True, slots=True)
class StageStarted(Event):
    """The run entered a stage, such as ``starting engine``, ``training`` or ``evaluating``."""

    stage: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TurnGenerated(Event):
    """The policy ended a turn."""

    episode: str
    turn: int
    tokens: int
    seconds: float
    stop_reason: str


@dataclass(frozen=True, slots=True)
class ToolCalled(Event):
    """A tool call was answered; ``status`` as in :class:`agentrl.Call`."""

    episode: str
    turn: int
    tool: str
    status: str
    seconds: float


@dataclass(frozen=True, slots=True)
class EpisodeFinished(Event):
    """An episode ended and was judged."""

    episode: str
    group: str
    task: str
    step: int
    split: str
    status: str
    reward: float
    success: bool
    turns: int
    calls: int
    tokens: int
    seconds: float
    generate_seconds: float
    tool_seconds: float


@dataclass(frozen=True, slots=True)
class EpisodeVoided(Event):
    """Infrastructure failed; ``final`` when no attempt is left."""

    episode: str
    group: str
    task: str
    step: int
    split: str
    reason: str
    attempt: int
    final: bool


@dataclass(frozen=True, slots=True)
class StepFinished(Event):
    """A training step ended; ``metrics`` holds plain numbers by name."""

    step: int
    steps: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class StalenessReported(Event):
    """How far behind the tokens of a step of asynchronous training were.

    Args:
        bound: updates by which a token may be behind.
        tokens: sampled tokens by how many updates they are behind (``"0"``, ``"1"``, …).
        dropped: groups given up since the step before, by reason: ``stale``, ``void``, ``failed``.
        groups: the groups that were trained.
    """

    step: int
    bound: int
    tokens: dict[str, int]
    dropped: dict[str, int]
    groups: list[str]


@dataclass(frozen=True, slots=True)
class EvalFinished(Event):
    """An evaluation on held-out tasks ended."""

    step: int
    success: float
    low: float
    high: float
    episodes: int
    reward: float


@dataclass(frozen=True, slots=True)
class DoctorReported(Event):
    """The doctor looked at a step. ``checks`` maps a check to ``pass`` or what is wrong."""

    step: int
    passed: bool
    checks: dict[str, str]


@dataclass(frozen=True, slots=True)
class CheckpointSaved(Event):
    """A checkpoint is complete on disk."""

    step: int
    path: str


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something a person should know that did not stop the run."""

    message: str


KINDS: dict[str, type[Event]] = {cls.__name__: cls for cls in Event.__subclasses__()}


class EventSink(Protocol):
    """Where events go."""

    def emit(self, event: Event) -> None:
        """Take the event without waiting."""


class NullSink:
    """Discards events."""

    def emit(self, event: Event) -> None:
        """Forget it."""


class FileSink:
    """Appends events as JSON lines to ``<folder>/<role>-<pid>.jsonl`` from a thread of its own.

    Args:
        folder: the run's ``events`` folder.
        role: which process this is.
        limit: events that may wait to be written; beyond it they are dropped and counted.
    """

    def __init__(self, folder: Path, role: str, limit: int = 10_000) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.dropped = 0
        self._queue: queue.Queue[Event | None] = queue.Queue(limit)
        self._file = (folder / f"{role}-{os.getpid()}.jsonl").open("a", encoding="utf-8")
        self._thread = threading.Thread(target=self._write, name="events", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        """Queue the event, or count it as dropped."""
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, and a warning if events were dropped."""
        if self.dropped:
            self._queue.put(Warned(f"{self.dropped} events were dropped: the disk did not keep up."))
        self._queue.put(None)
        self._thread.join(timeout=10)

    def _write(self) -> None:
        while (event := self._queue.get()) is not None:
            try:
                self._file.write(encode(event) + "\n")
                if self._queue.empty():
                    self._file.flush()
            except OSError:  # the disk is full, for now or for good; the run goes on without its record
                self.dropped += 1
        try:
            self._file.close()
        except OSError:
            return


def encode(event: Event) -> str:
    """An event as one line of JSON."""
    fields: dict[str, Any] = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
    return json.dumps({"event": type(event).__name__, **fields})


def decode(line: str) -> Event:
    """The event a line of JSON holds."""
    data = json.loads(line)
    return KINDS[data.pop("event")](**data)


class EventReader:
    """Follows the event files of a run folder as they grow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._offsets: dict[Path, int] = {}

    def poll(self) -> Iterator[Event]:
        """Yield the events that were completed since the last call, in each file's order."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                chunk = file.read()
            complete = chunk.rfind(b"\n") + 1
            for line in chunk[:complete].splitlines(keepends=True):
                self._offsets[path] = self._offsets.get(path, 0) + len(line)
                yield decode(line.decode())

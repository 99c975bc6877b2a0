"""A training that trains nothing: a process that writes a recorded stream of events."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from agentrl.config import TrainConfig
from agentrl.events import (
    CheckpointSaved,
    DoctorReported,
    EpisodeFinished,
    EpisodeVoided,
    EvalFinished,
    Event,
    FileSink,
    StageStarted,
    StepFinished,
    ToolCalled,
    TurnGenerated,
    Warned,
)
from agentrl.store import RunFolder

ROOT = Path(__file__).parents[2]
STEPS = 12


def recording(steps: int = STEPS) -> list[Event]:
    """What a small run that learns has to say."""
    events: list[Event] = [
        StageStarted("starting engine", "embedded"),
        StageStarted("evaluating", "before training"),
        EvalFinished(0, 0.125, 0.075, 0.201, 104, 0.1),
        StageStarted("training"),
    ]
    for step in range(1, steps + 1):
        success = min(1.0, step / steps)
        for episode in range(4):
            name = f"{step}-{episode}"
            events += [
                TurnGenerated(name, 0, 20, 0.2, "stop"),
                ToolCalled(name, 0, "add", "error" if episode == 0 else "ok", 0.01),
                EpisodeFinished(
                    name,
                    str(step),
                    "t",
                    step,
                    "train",
                    "truncated" if episode == 3 else "finished",
                    success,
                    success > 0.5,
                    1,
                    1,
                    20,
                    0.3,
                    0.2,
                    0.01,
                ),
            ]
        metrics = {
            "success/mean": success,
            "reward/mean": success - 0.1,
            "calls/mean": 1.0,
            "tokens/per_second": 1500.0,
            "time/step": 2.0,
            "time/generate": 1.0,
            "time/tools": 0.2,
            "time/train": 0.6,
            "time/sync": 0.1,
            "time/other": 0.1,
            "voided": 0.0,
            "truncated": 0.25,
            "actor/entropy": float("nan"),
        }
        events.append(StepFinished(step, steps, metrics))
        if step == 1:
            events.append(DoctorReported(1, True, {"tokens": "pass", "masks": "pass"}))
    events += [
        EpisodeVoided("v", "g", "task-v", steps, "train", "the sandbox went away", 1, False),
        EpisodeVoided("v", "g", "task-v", steps, "train", "the sandbox went away", 2, True),
        Warned("the disk is nearly full"),
        CheckpointSaved(steps, "checkpoints/global_step_12"),
        StageStarted("evaluating", "after training"),
        EvalFinished(steps, 0.875, 0.798, 0.925, 104, 0.8),
    ]
    return events


class FakeTraining:
    """As ``agentrl.train.launch.Training``: ``behaviour`` is what the child process does."""

    behaviour = "learn"
    reason: str | None = None

    def __init__(self, config: TrainConfig, folder: Path, model: Path) -> None:
        self.run = RunFolder(folder)
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, __file__, str(self.run.path), self.behaviour]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self._child = subprocess.Popen(command, start_new_session=True, env=environment)

    def poll(self) -> int | None:
        return None if self._child is None else self._child.poll()

    def interrupt(self) -> None:
        assert self._child is not None
        self._child.send_signal(signal.SIGINT)

    def kill(self) -> None:
        if self._child is not None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def failure(self) -> str | None:
        return self.reason


def _child(folder: Path, behaviour: str) -> int:
    sink = FileSink(folder / "events", "driver")
    interrupted: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: interrupted.append(number))
    events = recording()
    (folder / "pid").write_text(str(os.getpid()))
    if behaviour in ("hang", "stubborn"):
        events = events[: len(events) // 2]
    for event in events:
        sink.emit(event)
    if behaviour == "learn":
        checks = [{"name": "tokens", "step": 1, "passed": True, "detail": ""}]
        (folder / "doctor.json").write_text(json.dumps({"passed": True, "checks": checks}))
    while behaviour in ("hang", "stubborn") and not (interrupted and behaviour == "hang"):
        time.sleep(0.02)
    if interrupted:
        sink.emit(CheckpointSaved(5, "checkpoints/global_step_5"))
    sink.close()
    return 3 if behaviour == "fail" else 0


if __name__ == "__main__":
    sys.exit(_child(Path(sys.argv[1]), sys.argv[2]))

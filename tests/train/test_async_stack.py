"""A real asynchronous run that is killed in the middle and goes on by itself."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from stack_support import SECONDS, log_tail, make_model, play, prepare, processes

from agentrl.events import (
    CheckpointSaved,
    DoctorReported,
    EvalFinished,
    Event,
    StageStarted,
    StalenessReported,
    StepFinished,
    Warned,
)

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]

BOUND, STEPS = 2, 6


def test_a_killed_asynchronous_run_goes_on_within_the_bound(tmp_path: Path) -> None:
    folder, moment, wait = tmp_path / "run", random.randint(2, 3), random.uniform(0.0, 1.5)
    training = prepare(
        folder, make_model(tmp_path / "model"), "mode=async", f"staleness.bound={BOUND}", f"steps={STEPS}",
        "checkpoint.every=1", "algorithm.minibatches=2", "rollout.retries=0", "checkpoint.restarts=1",
        "eval.tasks=4", "env_options.pause=2.0",
    )  # fmt: skip

    def begun(event: Event) -> bool:
        return isinstance(event, StepFinished) and event.step == moment

    def kill_trainer() -> None:
        time.sleep(wait)  # in whatever the trainer does then: sampling, an update, a checkpoint
        (driver,) = [p for p in processes(folder) if "agentrl.train.driver" in " ".join(p.cmdline())]
        os.kill(driver.pid, signal.SIGKILL)

    played = play(training, begun, kill_trainer, seconds=3 * SECONDS)
    assert played.status == 0, f"killed {wait:.2f} s after step {moment}\n{log_tail(folder)}"

    # The run says what happened, and where it went on.
    assert any("goes on from its last checkpoint (1 of" in event.message for event in played.of(Warned))
    (going_on,) = [event for event in played.of(StageStarted) if event.stage == "going on"]
    resumed = int(going_on.detail.split()[1].rstrip(","))
    assert moment < resumed <= STEPS
    assert [event.step for event in played.of(EvalFinished)] == [0, resumed - 1, STEPS]

    # Of what was trained before the last checkpoint and after it nothing is repeated or missing.
    second = going_on.time
    reports = played.of(StalenessReported)
    counted = [event for event in reports if event.time > second or event.step < resumed]
    assert [event.step for event in counted] == list(range(1, STEPS + 1))
    trained = [group for event in counted for group in event.groups]
    assert len(set(trained)) == len(trained) == 4 * STEPS

    # No token is staler than the bound, and some are stale: the engines did not wait.
    lags = {int(lag) for event in reports for lag in event.tokens}
    assert lags <= set(range(BOUND + 1)) and max(lags) > 0

    # What was trained is what was sampled, each token by the weights of the version that it names.
    assert [event.passed for event in played.of(DoctorReported)] == [True] * len(played.of(DoctorReported))
    certificate = json.loads((folder / "doctor.json").read_text())
    last = [check for check in certificate["checks"] if check["step"] == STEPS]
    assert any("every token's version" in check["name"] for check in last)
    if resumed + BOUND <= STEPS:  # else tokens may be of versions whose weights ended with the first process
        assert not any("were not compared" in check["detail"] for check in last)

    assert [event.step for event in played.of(CheckpointSaved)][-1] == STEPS
    assert psutil.pid_exists(1) and processes(folder) == []

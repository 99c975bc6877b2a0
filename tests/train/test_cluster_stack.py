"""A real asynchronous run over two Ray nodes, of which one is lost; another one joins and the run goes on."""

from __future__ import annotations

import random
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_support import Cluster
from stack_support import (
    SECONDS,
    assert_trained_as_promised,
    log_tail,
    make_model,
    play,
    prepare,
    processes,
)

from agentrl.events import CheckpointSaved, Event, StageStarted, StepFinished, Warned

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]

BOUND, STEPS = 2, 5
TRAINER, ENGINE = "WorkerDict", "VLLM::EngineCore"

# Ask a cluster of one GPU for two.
TOO_MANY = """
import sys
from pathlib import Path

import ray

from agentrl.config import load_config
from agentrl.events import FileSink
from agentrl.train.devices import await_devices

ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
config = load_config("x", ["mode=async", "hardware.cluster_seconds=8"])
await_devices(config, FileSink(Path(sys.argv[2]), "driver"))
"""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    made = Cluster()
    yield made
    made.remove()


def test_a_run_goes_on_when_a_machine_is_lost_and_another_one_joins(cluster: Cluster, tmp_path: Path) -> None:
    # A run that the cluster has no room for ends with the reason.
    words = [sys.executable, "-c", TOO_MANY, cluster.head.address, str(tmp_path / "events")]
    asked = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    assert (
        "InfrastructureError: For 8 s (hardware.cluster_seconds) the Ray cluster had no room" in asked.stderr
    )
    assert "for 2 GPUs" in asked.stderr and "1 GPUs and 8 CPUs" in asked.stderr

    cluster.join()
    folder, seed = tmp_path / "run", random.randrange(1 << 30)
    training = prepare(
        folder, make_model(tmp_path / "model"), "mode=async", f"staleness.bound={BOUND}", f"steps={STEPS}",
        f"cluster={cluster.head.address}", "checkpoint.every=1", "checkpoint.restarts=1", "eval.tasks=4",
        "hardware.engine_seconds=25", "env_options.pause=1.0", "rollout.retries=0",
    )  # fmt: skip
    rng, lost = random.Random(seed), list[str]()

    def told(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step >= 2 and not lost:
            assert cluster.head.runs(TRAINER) or cluster.head.runs(ENGINE), "all of it ran on one machine"
            time.sleep(rng.uniform(0.0, 2.0))
            lost.extend(title for title in (TRAINER, ENGINE) if cluster.nodes[-1].runs(title))
            cluster.lose()
        if isinstance(event, StageStarted) and event.stage == "waiting for machines":
            cluster.join()

    played = play(training, seconds=3 * SECONDS, told=told)
    situation = f"seed {seed}, lost: {lost}\n{log_tail(folder)}"
    assert played.status == 0, situation
    assert lost in ([TRAINER], [ENGINE]), situation

    # The run says what happened, that it waits, and that it goes on.
    messages = [event.message for event in played.of(Warned)]
    reasons = ("lost a machine", "has not answered", "died")
    assert any(reason in message for reason in reasons for message in messages), (situation, messages)
    assert any("goes on from its last checkpoint (1 of" in message for message in messages), situation
    assert any(event.stage == "waiting for machines" for event in played.of(StageStarted)), situation
    assert len(cluster.nodes) == 3

    assert_trained_as_promised(played, STEPS, BOUND, groups=4)
    assert played.of(CheckpointSaved)[-1].step == STEPS
    assert processes(folder) == [], situation

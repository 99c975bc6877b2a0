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

from agentrl.events import CheckpointSaved, Event, EventReader, StageStarted, StepFinished, Warned

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

# Be a run on a cluster until somebody ends it.
ANOTHER = """
import sys, time

import ray

from agentrl.train.devices import QUEUE

ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
queue = ray.remote(type("Controller", (), {"up": lambda self: True})).options(num_cpus=0, **QUEUE).remote()
print(ray.get(queue.up.remote()), flush=True)
time.sleep(600)
"""

# Meet it: when it was there before, when it began at the same time, and when it is gone.
MEET = """
import os, signal, sys
from pathlib import Path

import ray

from agentrl.config import load_config
from agentrl.errors import InfrastructureError
from agentrl.events import FileSink
from agentrl.train.devices import QUEUE, await_queue, check_queue

address, other, events = sys.argv[1], int(sys.argv[2]), FileSink(Path(sys.argv[3]), "driver")
ray.init(address=address, logging_level="ERROR", log_to_driver=False)
words = ["mode=async", f"cluster={address}"]
for seconds in (1, 7):
    try:
        await_queue(load_config("x", [*words, f"hardware.cluster_seconds={seconds}"]), events)
    except InfrastructureError as problem:
        print("before:", problem)
try:
    check_queue(load_config("x", words))
except InfrastructureError as problem:
    print("at the same time:", problem)
os.kill(other, signal.SIGKILL)
await_queue(load_config("x", [*words, "hardware.cluster_seconds=60"]), events)
queue = ray.remote(type("Controller", (), {"up": lambda self: True})).options(num_cpus=0, **QUEUE).remote()
ray.get(queue.up.remote())
check_queue(load_config("x", words))
print("alone")
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


def test_a_cluster_holds_one_run_at_a_time(cluster: Cluster, tmp_path: Path) -> None:
    address = cluster.head.address
    words = [sys.executable, "-c", ANOTHER, address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "True\n"
            words = [sys.executable, "-c", MEET, address, str(other.pid), str(tmp_path / "events")]
            met = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
        finally:
            other.kill()
    said = met.stdout.splitlines()
    assert met.returncode == 0 and len(said) == 4, met.stdout + met.stderr
    assert "For 1 s (hardware.cluster_seconds) another run was on the Ray cluster" in said[0]
    assert "For 7 s" in said[1] and said[2].startswith("at the same time: Another run began")
    assert said[3] == "alone"
    told = [event for event in EventReader(tmp_path / "events").poll() if isinstance(event, StageStarted)]
    assert [event.detail for event in told] == ["another run is on the cluster"]

"""A real asynchronous run: a worker is killed, an engine gets stuck, the tools' server goes and comes."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from stack_support import (
    SECONDS,
    assert_trained_as_promised,
    log_tail,
    make_model,
    play,
    prepare,
    processes,
)

from agentrl.events import CheckpointSaved, EpisodeFinished, EpisodeVoided, Event, StepFinished, Warned

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]

BOUND, STEPS, SILENCE, AWAY = 2, 24, 15.0, 3.0
ASKED = 60.0
"""Seconds in which the tools are called, as long as groups are left to be played."""
GOES_ON = "goes on from its last checkpoint"
KILLED, STUCK, GONE = "a rollout worker was killed", "an engine was stopped", "the tools' server was killed"

ENV = '''
from uuid import uuid4

from agentrl import Env, Task, reward
from agentrl.serve.client import ToolClient
from agentrl.serve.host import CallRequest

class Elsewhere(Env):
    """Rewards digits, which a tool server counts.

    Args:
        server: its address.
    """

    prompt = "Digits."

    def __init__(self, server: str):
        super().__init__()
        self.server = server

    def tasks(self, split):
        for i in range(32):
            yield Task(f"Say a number above {i}.", answer=i)

    async def reset(self, task):
        self.seen, self.session = 0, uuid4().hex
        self.client = ToolClient(self.server)
        await self.client.open(self.session)

    async def reply(self, text):
        answer = await self.client.call(CallRequest("count_digits", {"text": text}, self.session))
        assert answer.status == "ok", answer
        calls, self.seen = map(int, answer.observation.text.split())
        return "Again." if calls == 1 else None

    async def close(self):
        await self.client.close()

    @reward
    def digits(self, episode):
        return self.seen / max(1, sum(len(turn.raw) for turn in episode.turns))
'''

TOOL = '''
import asyncio
from pathlib import Path

from agentrl import Tool

class CountDigits(Tool):
    """Counts digits."""

    async def open(self):
        self.calls = self.seen = 0

    async def call(self, text: str) -> str:
        """Add up the digits of all calls."""
        Path(__file__).with_name("called").touch()
        await asyncio.sleep(0.5)
        self.calls, self.seen = self.calls + 1, self.seen + sum(map(str.isdigit, text))
        return f"{self.calls} {self.seen}"
'''


class Server:
    """``agentrl serve`` with one tool, which can be killed and comes back at the same address."""

    def __init__(self, folder: Path) -> None:
        self._tool, self._called = folder / "count_digits.py", folder / "called"
        self._lock = threading.Lock()
        self._tool.write_text(TOOL)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process, self._return = self._start(), threading.Timer(AWAY, self._come_back)

    def _start(self) -> subprocess.Popen[str]:
        words = ["serve", str(self._tool), "--port", str(self._port), "--log", "none", "--sessions", "4096"]
        command = [sys.executable, "-m", "agentrl.cli", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout as said:
            assert self.url in said.readline()
        return process

    def go_and_come(self) -> None:
        """Die without a word while a call is under way; be there again some seconds later."""
        self._called.unlink(missing_ok=True)
        deadline = time.monotonic() + ASKED
        while not self._called.exists():
            assert time.monotonic() < deadline, f"nobody called the tools for {ASKED:g} s"
            time.sleep(0.02)
        self.kill()
        self._return = threading.Timer(AWAY, self._come_back)
        self._return.start()

    def _come_back(self) -> None:
        with self._lock:
            self._process = self._start()

    def kill(self) -> None:
        """End it; it does not come back."""
        self._return.cancel()
        with self._lock:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path)
    yield started
    started.kill()


def engine(folder: Path) -> psutil.Process:
    (found,) = [p for p in processes(folder) if "VLLM::EngineCore" in " ".join(p.cmdline())]
    return found


def rollout_worker(folder: Path) -> psutil.Process:
    """The one that writes what becomes of episodes."""
    writing = {int(path.stem.rpartition("-")[2]) for path in (folder / "events").glob("rollout-*.jsonl")}
    (found,) = [p for p in processes(folder) if p.pid in writing]
    return found


@dataclass(frozen=True)
class Fault:
    """What strikes, and the event that tells that the run has noticed."""

    strike: Callable[[], None]
    noticed: Callable[[Event], bool]


def went_on(event: Event) -> bool:
    return isinstance(event, Warned) and GOES_ON in event.message


class Faults:
    """Strikes after a step, at a random moment, one fault after the other in a random order.

    The next one comes once the run has noticed the one before.

    Args:
        seed: of all that.
        faults: by name.
    """

    def __init__(self, seed: int, faults: dict[str, Fault]) -> None:
        self._rng, self._faults = random.Random(seed), faults
        self._left = self._rng.sample(sorted(faults), len(faults))
        self._next, self._open = 1, ""
        self.struck: list[str] = []

    def told(self, event: Event) -> None:
        """Strike, if it is time."""
        if self._open and self._faults[self._open].noticed(event):
            self._open = ""
        if not (isinstance(event, StepFinished) and self._left and event.step >= self._next) or self._open:
            return
        self._open, wait = self._left.pop(0), self._rng.uniform(0.0, 2.0)
        time.sleep(wait)
        self._faults[self._open].strike()
        self.struck.append(f"{self._open} {wait:.1f} s after step {event.step}")
        self._next = event.step + 2


def test_a_run_goes_on_through_faults_of_every_kind(tmp_path: Path, server: Server) -> None:
    folder, seed = tmp_path / "run", random.randrange(1 << 30)
    training = prepare(
        folder, make_model(tmp_path / "model"), "mode=async", f"staleness.bound={BOUND}", f"steps={STEPS}",
        "checkpoint.every=1", "checkpoint.restarts=2", "rollout.retries=6", "rollout.retry_seconds=0.5",
        f"hardware.engine_seconds={SILENCE}", "eval.tasks=4", f"env_options.server={server.url}", source=ENV,
    )  # fmt: skip
    faults = Faults(
        seed,
        {
            KILLED: Fault(lambda: rollout_worker(folder).kill(), went_on),
            STUCK: Fault(lambda: engine(folder).send_signal(signal.SIGSTOP), went_on),
            GONE: Fault(
                server.go_and_come,
                lambda event: isinstance(event, EpisodeVoided) and server.url in event.reason,
            ),
        },
    )
    played = play(training, seconds=3 * SECONDS, told=faults.told)
    situation = f"seed {seed}: {faults.struck}\n{log_tail(folder)}"
    assert played.status == 0 and len(faults.struck) == 3, situation

    # Each fault is told, and what became of it.
    told = [event.message for event in played.of(Warned)]
    assert any("a worker process died: EpisodeWorker" in message for message in told), (situation, told)
    assert any(f"not answered for {SILENCE:g} s" in message for message in told), (situation, told)
    assert sum(GOES_ON in message for message in told) == 2, (situation, told)
    voided = played.of(EpisodeVoided)
    assert voided and all(server.url in event.reason or "ngine" in event.reason for event in voided), (
        situation
    )
    assert any(server.url in event.reason for event in voided), (situation, voided)

    # Nothing is lost by it: the server's episodes were played again. Where an engine is stopped in an update
    # of its weights, the trainer hangs there until it is given up after a minute; episodes give up before
    # that, and are played again from the checkpoint.
    assert not any(event.final and server.url in event.reason for event in voided), (situation, voided)
    again = {event.episode for event in voided if server.url in event.reason}
    assert again & {event.episode for event in played.of(EpisodeFinished)}, situation
    assert_trained_as_promised(played, STEPS, BOUND, groups=4)
    assert played.of(CheckpointSaved)[-1].step == STEPS
    assert processes(folder) == [], situation

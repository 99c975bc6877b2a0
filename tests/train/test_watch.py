"""What is noticed of processes that died or are stuck. Ray is a stand-in; the stack tests have a real one."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ray.core.generated.common_pb2 import ActorDeathCause, ActorDiedErrorContext
from ray.exceptions import ActorDiedError, ActorUnavailableError

from agentrl.config import Hardware
from agentrl.train import watch
from agentrl.train.devices import wanted
from agentrl.train.failure import ProcessLost
from agentrl.train.watch import Actors, Engine, Rollout, Watch

WAITING = object()


class Ray:
    """Stands for Ray: answers questions as it is told to, and keeps a table of actors."""

    def __init__(self) -> None:
        self.answer: Any = WAITING
        self.killed: list[Any] = []
        self.asked = 0
        self.table = {name: self.actor(name) for name in ("Trainer", "Engine", "Episodes")}
        self.machines = [{"NodeID": "n1", "NodeManagerAddress": "10.0.0.1", "Alive": True}]
        self.collective_rpc = SimpleNamespace(remote=self.ask)
        self.alive = SimpleNamespace(remote=lambda: self.ask("check_health"))
        self._private = SimpleNamespace(state=SimpleNamespace(actors=lambda job_id: self.table))
        self.JobID = bytes

    @staticmethod
    def actor(name: str, state: str = "ALIVE", reason: str = "WORKER_DIED") -> dict[str, Any]:
        context = ActorDiedErrorContext(reason=ActorDiedErrorContext.Reason.Value(reason))
        cause = ActorDeathCause(actor_died_error_context=context)
        where = {"NodeID": "n1"}
        return {"ActorClassName": name, "State": state, "Address": where, "DeathCause": cause}

    def ask(self, method: str) -> str:
        assert method == "check_health"
        self.asked += 1
        return "question"

    def wait(self, refs: list[str], timeout: float) -> tuple[list[str], list[str]]:
        assert timeout == 0
        return ([], refs) if self.answer is WAITING else (refs, [])

    def get(self, ref: str) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)

    def nodes(self) -> list[dict[str, Any]]:
        return self.machines

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_job_id=lambda: "01")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    stand_in = Ray()
    monkeypatch.setattr(watch, "ray", stand_in)
    return stand_in


def test_a_rollout_worker_that_is_stuck_is_ended_and_a_dead_one_is_left_to_others(ray: Ray) -> None:
    worker = Rollout(ray, 10.0)
    ray.answer = None
    assert worker.look(9.0) is None
    ray.answer = WAITING
    assert worker.look(9.0) is None
    assert "A rollout worker has not answered for 10 s (hardware.worker_seconds)" in str(worker.look(2.0))
    worker.release()
    assert ray.killed == [ray]
    ray.answer = ActorDiedError()
    assert worker.look(0.0) is None, "of all actors that died it is told once, with their names"


def test_an_engine_is_lost_after_so_long_a_silence_and_not_before(ray: Ray) -> None:
    engine = Engine(ray, 10.0)
    assert [engine.look(4.0) for _ in range(2)] == [None, None]
    ray.answer = None
    assert engine.look(1.0) is None  # it was slow
    ray.answer = WAITING
    assert [engine.look(5.0) for _ in range(2)] == [None, None] and ray.asked == 2
    assert "has not answered for 10 s (hardware.engine_seconds)" in str(engine.look(0.1))
    engine.release()
    assert ray.killed == [ray]


def test_an_engine_out_of_reach_may_come_back_within_the_silence(ray: Ray) -> None:
    engine, ray.answer = Engine(ray, 10.0), ActorUnavailableError("connection reset", None)
    assert [engine.look(5.0) for _ in range(2)] == [None, None]
    ray.answer = None
    assert engine.look(1.0) is None
    ray.answer = ActorUnavailableError("connection reset", None)
    assert engine.look(9.0) is None and "has not answered" in str(engine.look(2.0))


@pytest.mark.parametrize(
    ("problem", "said"),
    [(ActorDiedError(), "engine's server died"), (ValueError("core is dead"), "engine failed: ValueError")],
)
def test_a_dead_engine_is_lost_at_once(ray: Ray, problem: Exception, said: str) -> None:
    engine, ray.answer = Engine(ray, 1e6), problem
    assert said in str(engine.look(0.1))


def test_a_worker_that_died_is_told_by_its_name_and_a_machine_by_its_address(ray: Ray) -> None:
    ray.table["Before"] = ray.actor("Before", "DEAD")
    actors = Actors()
    assert actors.look(1.0) is None
    ray.table["Trainer"] = ray.actor("Trainer", "DEAD", "OUT_OF_SCOPE")  # it was no longer needed
    assert actors.look(1.0) is None
    ray.table["Episodes"] = ray.actor("maker.<locals>.Episodes", "DEAD")
    assert "a worker process died: Episodes." in str(actors.look(1.0))
    assert actors.look(1.0) is None
    ray.table["Engine"] = ray.actor("Engine", "DEAD", "NODE_DIED")
    ray.machines[0]["Alive"] = False
    assert actors.look(1.0) == "The run lost a machine, 10.0.0.1, and with it Engine."


class Thing:
    """Cannot be looked at once, and is lost from its third look on."""

    def __init__(self) -> None:
        self.looks, self.released = 0, threading.Event()

    def look(self, seconds: float) -> str | None:
        assert seconds <= watch.LONGEST_SECONDS
        self.looks += 1
        if self.looks == 1:
            raise ConnectionError("Ray does not answer")
        return "it is gone" if self.looks > 2 else None

    def release(self) -> None:
        self.released.set()


def test_a_loss_is_told_once_and_a_trainer_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.01)
    thing, told, given_up = Thing(), [], threading.Event()
    with Watch([thing], told.append, given_up.set, seconds=0.05) as looking:
        assert thing.released.wait(30) and given_up.wait(30)
        with pytest.raises(ProcessLost, match="it is gone"):
            looking.settle(30)
    assert told == ["it is gone"]


def test_a_run_that_ends_in_time_is_not_ended_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.01)
    thing, given_up = Thing(), threading.Event()
    with Watch([thing], lambda _: None, given_up.set, seconds=60):
        assert thing.released.wait(30)
    assert not given_up.wait(0.1)
    with Watch([], lambda _: None, given_up.set) as looking:
        looking.settle(0.05)  # nothing is lost
        looking.add(thing)
        with pytest.raises(ProcessLost):
            looking.settle(30)


@pytest.mark.parametrize(
    ("settings", "apart", "gpus"),
    [
        ({"nodes": 2, "gpus_per_node": 8}, False, [8, 8]),
        ({"gpus_per_node": 4, "engine_gpus_per_node": 4, "tensor_parallel": 2}, True, [4, 2, 2]),
        ({"engine_nodes": 2, "engine_gpus_per_node": 8, "tensor_parallel": 16}, True, [1, 8, 8]),
    ],
)
def test_what_is_waited_for_is_what_verl_reserves(settings: dict, apart: bool, gpus: list[int]) -> None:
    parts = wanted(Hardware(**settings), apart=apart)
    assert [len(part) for part in parts] == gpus
    assert all(bundle["GPU"] == 1 and bundle["CPU"] >= 2 for part in parts for bundle in part)

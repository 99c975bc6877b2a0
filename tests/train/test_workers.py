"""Rollout workers: groups that are gone on with, groups with more episodes than they need, their spread."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray
from tensordict import NonTensorStack, TensorDict
from verl.trainer.ppo.v1 import agent_loop_tq

from agentrl import Env, Trajectory, reward
from agentrl.config import load_config
from agentrl.errors import ConfigError
from agentrl.train import workers
from agentrl.train.experience import PLAYED
from agentrl.train.launch import _check_over
from agentrl.train.swarm import SAID
from agentrl.train.workers import ENDED_SESSIONS, EpisodeManager, EpisodeWorker


class Played:
    """A worker of which every episode takes as long as it is told; ``None``: its machines failed at once."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        seconds: Sequence[float | None],
        *,
        over: int = 0,
        size: int = 4,
    ) -> None:
        self.seconds, self.begun, self.rows, self.broken_off = seconds, [], [], []
        self.statuses: list[str] = []
        self.rung = 0
        self.worker = cast(Any, object.__new__(EpisodeWorker))
        rollout = SimpleNamespace(n=size, val_kwargs=SimpleNamespace(n=size))
        self.worker.config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=rollout))
        self.worker._over, self.worker._playing = over, {}
        self.worker._ringer = SimpleNamespace(ring=self._ring)
        monkeypatch.setattr(agent_loop_tq, "tq", SimpleNamespace(async_kv_put=self._put))
        monkeypatch.setattr(workers._Worker, "_run_agent_loop", self._episode)
        monkeypatch.setattr(workers._Worker, "_agent_loop_postprocess", self._write)

    def _ring(self) -> None:
        self.rung += 1

    async def _put(self, *, key: str, partition_id: str, tag: Mapping[str, str]) -> None:
        self.statuses.append(tag["status"])

    async def _episode(self, sampling: Any, *, uid: str, session_id: int, **_how: Any) -> None:
        self.begun.append(session_id)
        seconds = self.seconds[session_id]
        try:
            await asyncio.sleep(seconds or 0)
        except asyncio.CancelledError:
            self.broken_off.append(session_id)
            raise
        output = [] if seconds is None else ["row"]
        await self.worker._agent_loop_postprocess(output, False, uid=uid, session_id=session_id)

    async def _write(self, output: Any, validate: bool, *, uid: str, session_id: int) -> None:
        await asyncio.sleep(0.02)  # a write that is under way when the group has enough is finished
        if output:
            self.rows.append(session_id)

    async def group(self, columns: Mapping[str, Any] | None = None, *, validate: bool = False) -> None:
        await self.worker._run_prompt({"uid": "g", **(columns or {})}, {}, {"validate": validate})


async def test_episodes_that_had_ended_are_not_played_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Played(monkeypatch, [0.01] * 4)
    await made.group({ENDED_SESSIONS: [0, 3]})
    assert made.begun == [1, 2] == sorted(made.rows)
    assert made.statuses == ["running", "finished"] and made.rung == 1 and made.worker._playing == {}


async def test_nobody_waits_for_the_last_where_more_were_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Played(monkeypatch, [0.01, 60, 0.02, 60, 0.01, 0.03], over=2)
    await asyncio.wait_for(made.group(), 10)
    assert made.begun == list(range(6))
    assert sorted(made.rows) == [0, 2, 4, 5] and sorted(made.broken_off) == [1, 3]
    assert made.statuses == ["running", "finished"]


async def test_those_that_end_in_the_same_moment_make_the_group_no_larger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Played(monkeypatch, [0.01] * 6, over=2)
    await made.group()
    assert len(made.rows) == 4 and made.broken_off == []


async def test_void_episodes_do_not_count_as_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Played(monkeypatch, [None, None, 0.01, 0.02, 0.03, 0.05], over=2)
    await made.group()
    assert sorted(made.rows) == [2, 3, 4, 5] and made.broken_off == []


async def test_episodes_kept_from_before_count(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Played(monkeypatch, [0, 0, 0.01, 60, 60, 0.01], over=2)
    await asyncio.wait_for(made.group({ENDED_SESSIONS: [0, 1]}), 10)
    assert sorted(made.rows) == [2, 5] and sorted(made.broken_off) == [3, 4]


@pytest.mark.parametrize(("columns", "validate"), [({SAID: "[]", PLAYED: 3}, False), ({}, True)])
async def test_shared_and_held_out_episodes_are_as_many_as_there_are(
    monkeypatch: pytest.MonkeyPatch, columns: dict[str, Any], validate: bool
) -> None:
    made = Played(monkeypatch, [0.01] * 6, over=2)
    await made.group(columns, validate=validate)
    assert len(made.rows) == columns.get(PLAYED, 4)


async def test_an_error_of_an_episode_is_still_an_error_of_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Played(monkeypatch, [0.01] * 4)

    async def fail(self: Any, *_what: Any, **_how: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(workers._Worker, "_run_agent_loop", fail)
    await made.group()
    assert made.statuses == ["running", "failure"]


# ---- several workers


def test_groups_that_are_asked_for_one_by_one_go_to_one_worker_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: Counter[int] = Counter()

    def worker(number: int) -> Any:
        def take(chunk: TensorDict) -> None:
            given[number] += len(chunk)

        return SimpleNamespace(generate_sequences=SimpleNamespace(remote=take))

    monkeypatch.setattr(ray, "get", lambda asked: asked)
    made = object.__new__(EpisodeManager)
    made.agent_loop_workers, made._next = [worker(number) for number in range(3)], 0

    def ask(groups: int) -> None:
        names = NonTensorStack(*[str(i) for i in range(groups)])
        made.generate_sequences(TensorDict({"uid": names}, batch_size=groups))

    for _ in range(6):
        ask(1)
    assert given == {0: 2, 1: 2, 2: 2}
    ask(2)
    ask(7)
    assert sum(given.values()) == 15 and max(given.values()) - min(given.values()) <= 2


# ---- what does not go with it


class Compared(Env):
    @reward(per="group")
    def best(self, episodes: Sequence[Trajectory]) -> list[float]:
        return [0.0] * len(episodes)


def test_rewards_that_compare_a_group_want_all_of_it() -> None:
    config = load_config("env", ["algorithm.over=2"])
    _check_over(config, Env().own_rewards(), None)
    with pytest.raises(ConfigError, match="Use algorithm.over=0"):
        _check_over(config, Compared().own_rewards(), None)
    _check_over(load_config("env"), Compared().own_rewards(), None)

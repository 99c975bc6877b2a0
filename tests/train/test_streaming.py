"""The buffer of asynchronous training, and what a checkpoint of it is gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentrl.errors import InfrastructureError
from agentrl.train.async_trainer import left_over
from agentrl.train.failure import RunStopped, write_failure
from agentrl.train.sampler import StreamingReplayBuffer


class Buffer(StreamingReplayBuffer):
    """Sees what the test puts there, instead of TransferQueue."""

    def __init__(self, run: Path, policy: str = "drop") -> None:
        super().__init__(
            trainer_mode="separate_async", trainer_config={}, max_off_policy_threshold=None,
            max_off_policy_strategy="drop",
            sampler_kwargs={"run": str(run), "host": "127.0.0.1", "bound": 1, "policy": policy, "batch": 2},
        )  # fmt: skip
        self.queue: dict[str, dict[str, Any]] = {}
        self.admitted = 0
        self.admit = self._admit_one

    def _admit_one(self) -> None:
        self.admitted += 1
        self.put(f"new{self.admitted}", step=6, versions=[5])

    def put(
        self, name: str, *, step: int, status: str = "finished", versions: list[int] | None = None
    ) -> None:
        self.queue[name] = {"is_prompt": True, "status": status, "global_steps": step}
        for number, version in enumerate(versions or []):
            self.queue[f"{name}_{number}_0"] = {"min_global_steps": version}

    def _sync_metadata_from_transfer_queue(self) -> None:
        states = {"finished": self.finished_keys, "failure": self.failure_keys, "running": self.running_keys}
        for known in (self.partitions, self.prompt_global_steps, *states.values()):
            known.clear()
        for key, tag in self.queue.items():
            if "is_prompt" in tag:
                self.prompt_global_steps["train"][key] = tag["global_steps"]
                states[tag["status"]]["train"].add(key)
            else:
                self.partitions["train"][key] = dict(tag)

    def _clear_groups(self, partition_id: str, uids: set[str]) -> None:
        self.queue = {key: tag for key, tag in self.queue.items() if key.split("_")[0] not in uids}

    def _materialize_batch(self, partition_id: str, names: list[str], rows: dict[str, Any]) -> Any:
        return SimpleNamespace(names=names, keys=[key for key in rows if key.split("_")[0] in names])


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Buffer]]:
    """Makes buffers, and closes them."""
    buffers: list[Buffer] = []

    def make(policy: str = "drop") -> Buffer:
        buffers.append(Buffer(tmp_path, policy))
        return buffers[-1]

    yield make
    for buffer in buffers:
        buffer.bell.close()


def test_the_oldest_groups_are_sampled_with_the_rows_there_are(made: Callable[..., Buffer]) -> None:
    buffer = made()
    buffer.put("b", step=6, versions=[5, 5])
    buffer.put("a", step=5, versions=[5, 4])
    buffer.put("c", step=6, versions=[5])
    batch, _ = buffer.sample(6, "train", 2)
    assert batch.names == ["a", "b"]
    assert batch.keys == ["b_0_0", "b_1_0", "a_0_0", "a_1_0"]


def test_what_is_dropped_is_counted_by_reason_and_made_up_for(made: Callable[..., Buffer]) -> None:
    buffer = made()
    buffer.put("stale", step=4, versions=[5, 3])
    buffer.put("void", step=6)
    buffer.put("failed", step=6, status="failure", versions=[5])
    buffer.put("good", step=6, versions=[5])
    batch, _ = buffer.sample(6, "train", 2)
    assert batch.names == ["good", "new1"]
    assert buffer.take_dropped() == {"stale": 1, "void": 1, "failed": 1}
    assert buffer.take_dropped() == {}


def test_weights_are_corrected_instead_of_dropping(made: Callable[..., Buffer]) -> None:
    buffer = made("correct")
    buffer.put("stale", step=2, versions=[1])
    buffer.put("good", step=6, versions=[5])
    assert buffer.sample(6, "train", 2)[0].names == ["stale", "good"]


def test_rows_that_are_being_written_wait_for_their_group(made: Callable[..., Buffer]) -> None:
    buffer = made()
    buffer.put("good", step=6, versions=[5])
    buffer.put("late", step=6, status="running")
    buffer.queue["late_0_0"] = {}
    assert buffer.sample(6, "train", 1)[0].names == ["good"]


def test_a_run_without_a_single_row_ends(made: Callable[..., Buffer]) -> None:
    buffer = made()
    buffer.admit = lambda: buffer.put(f"void{len(buffer.queue)}", step=6)
    buffer.put("void", step=6)
    with pytest.raises(InfrastructureError, match="6 groups of episodes in a row were void"):
        buffer.sample(6, "train", 1)


@pytest.mark.parametrize("policy", ["drop", "wait"])
def test_good_groups_that_wait_for_a_batch_do_not_keep_a_hopeless_run_alive(
    made: Callable[..., Buffer], policy: str
) -> None:
    buffer = made(policy)
    buffer.put("good", step=6, versions=[5])
    buffer.admit = lambda: buffer.put(f"void{len(buffer.dropped)}x{buffer.dropped.total()}", step=6)
    buffer.put("void", step=6)
    with pytest.raises(InfrastructureError, match="6 groups of episodes in a row were void"):
        buffer.sample(6, "train", 2)


def test_a_good_group_now_and_then_is_enough_to_go_on(made: Callable[..., Buffer]) -> None:
    buffer, names = made(), iter(range(100))

    def admit() -> None:
        number = next(names)
        if number < 19:
            buffer.put(f"void{number}", step=6)
        if number % 5 == 4:
            buffer.put(f"good{number}", step=6, versions=[5])

    buffer.admit = admit
    buffer.put("void", step=6)
    assert buffer.sample(6, "train", 4)[0].names == ["good14", "good19", "good4", "good9"]


def test_a_waiting_trainer_notices_that_it_must_end(tmp_path: Path, made: Callable[..., Buffer]) -> None:
    write_failure(tmp_path, RunStopped("interrupted"))
    with pytest.raises(RunStopped, match="interrupted"):
        made().sample(6, "train", 1)


PROMPT = {"is_prompt": True, "global_steps": 3}
TAGS: dict[str, dict[str, Any]] = {
    "done": {**PROMPT, "status": "finished"},
    "done_0_0": {"min_global_steps": 2},
    "half": {**PROMPT, "status": "running"},
    "half_0_0": {"min_global_steps": 2},
    "half_0_1": {"min_global_steps": 2},
    "half_3_0": {"min_global_steps": 2},
    "half_2_0": {},
    "begun": {**PROMPT, "status": "pending"},
    "trained_0_0": {"min_global_steps": 1},
}


def test_ended_episodes_of_groups_under_way_are_kept() -> None:
    left = left_over(TAGS, whole=False)
    assert left.finished == 1
    assert left.groups == {"half": [0, 3], "begun": []}
    assert left.rows == ["half_2_0"]  # cut off while it was written


def test_groups_that_are_judged_as_a_whole_are_played_anew() -> None:
    left = left_over(TAGS, whole=True)
    assert left.groups == {"half": [], "begun": []}
    assert left.rows == ["half_0_0", "half_0_1", "half_3_0", "half_2_0"]

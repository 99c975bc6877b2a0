"""Which tasks are drawn: tiers, solved tasks, and a run that is gone on with."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from agentrl import Env, Task
from agentrl.algorithms import chosen
from agentrl.config import load_config
from agentrl.doctor import Row
from agentrl.errors import ConfigError
from agentrl.events import NullSink
from agentrl.train import curriculum_trainer
from agentrl.train.checkpoints import clear_unsealed
from agentrl.train.curriculum import FILE, Draws, Tiers
from agentrl.train.dataset import read_tasks, write_tasks
from agentrl.train.sampler import WatchfulReplayBuffer
from agentrl.train.trainer import SyncTrainer

LENGTHS = [2, 3, 5, 8, 9, 12]
TASKS = [
    Task(f"task {i}", id=f"t{i}", metadata={"length": n, "kind": "ab"[i % 2]}) for i, n in enumerate(LENGTHS)
]


def draws(*, solved: float | None = None, tasks: list[Task] = TASKS, steps: int = 30, **tiers: Any) -> Draws:
    how = Tiers(**tiers) if tiers else None
    return Draws(tasks, tiers=how, solved=solved, steps=steps, seed=0)


def test_each_tier_is_drawn_for_its_share_of_the_steps() -> None:
    """CRAFT-GUI's tiers: up to 3 steps, up to 8, more; a third of the steps for each."""
    made = draws(bounds=[3, 8])
    seen = {step: set(made.draw(4, step)) for step in range(30)}
    assert all(seen[step] == {0, 1} for step in range(10))
    assert all(seen[step] == {2, 3} for step in range(10, 20))
    assert all(seen[step] == {4, 5} for step in range(20, 30))
    assert made.metrics() == {"tier": 3, "solved": 0, "tasks": 2}
    assert set(draws(bounds=[3, 8], cumulative=True).draw(8, 15)) == {0, 1, 2, 3}
    assert set(draws(bounds=[3, 8], shares=[0, 0, 1]).draw(4, 0)) == {4, 5}
    assert set(draws(bounds=[3, 8], down=True).draw(4, 0)) == {4, 5}
    assert set(draws(key="kind", order=["b", "a"]).draw(6, 0)) == {1, 3, 5}


def test_a_pass_draws_every_task_once_in_an_order_of_its_own() -> None:
    made = draws(solved=0.9)
    passes = [made.draw(6, 0) for _ in range(4)]
    assert all(sorted(order) == list(range(6)) for order in passes) and len({*map(tuple, passes)}) > 1
    assert Counter(draws(solved=0.9).draw(12, 0)) == Counter(dict.fromkeys(range(6), 2))
    assert [draws(solved=0.9).draw(1, 0) for _ in range(2)] == [passes[0][:1]] * 2


def test_solved_tasks_are_not_drawn_again() -> None:
    made = draws(solved=0.9)
    made.add([("t0", True)] * 9 + [("t0", False)] + [("t1", True)] * 8 + [("t1", False)] * 2)
    assert set(made.draw(60, 5)) == {1, 2, 3, 4, 5} and made.metrics() == {"solved": 1, "tasks": 5}
    made.add([("t0", False)] * 90)  # out is out
    assert 0 not in made.draw(60, 6)
    made.add([(f"t{i}", True) for i in range(2, 6)] + [("t1", True)] * 10)
    with pytest.raises(ConfigError, match="Every one of the 6 tasks is solved"):
        made.draw(1, 7)


def test_a_tier_that_is_solved_makes_room_for_the_next() -> None:
    made = draws(bounds=[3, 8], solved=0.5)
    made.add([("t0", True), ("t1", True)])
    assert set(made.draw(4, 0)) == {2, 3} and made.metrics()["tier"] == 2
    made.add([("t4", True), ("t5", True)])
    assert set(made.draw(4, 29)) == {2, 3}  # nothing harder is left


def test_tiers_by_what_the_run_measures() -> None:
    """A task that was not played yet counts as never solved, or as its metadata say."""
    tasks = [*TASKS[:3], Task("known", id="k", metadata={"pass_rate": 0.8})]
    made = draws(tasks=tasks, key="pass_rate", bounds=[0.3, 0.7])
    assert set(made.draw(4, 0)) == {3} and set(made.draw(6, 29)) == {0, 1, 2}
    made.add([("t0", True), ("t1", True), ("t1", False), ("k", False)])
    assert set(made.draw(4, 0)) == {0} and set(made.draw(4, 15)) == {1} and set(made.draw(4, 29)) == {2, 3}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bounds": [3, 8], "key": "size"}, "(it has: kind, length)"),
        ({"bounds": [3, 8], "key": "kind"}, "order=[…]"),
        ({"order": ["a", "c"], "key": "kind"}, "'b'"),
        ({"bounds": [20, 30]}, "[6, 0, 0] tasks"),
    ],
)
def test_what_does_not_fit_the_tasks_is_told(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        draws(**options)
    assert said in str(caught.value) and "algorithm.curriculum" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bounds": [2, 1]},
        {"bounds": [1], "order": ["a", "b"]},
        {"bounds": [3, 8], "key": "pass_rate"},
        {"bounds": [1], "shares": [1]},
    ],
)
def test_what_does_not_make_tiers_is_told(options: dict[str, Any]) -> None:
    given = {"name": "tiers", "options": options}
    settings = load_config("env", ["algorithm.name=grpo"]).algorithm.model_copy(update={"curriculum": given})
    with pytest.raises(ConfigError, match=r"algorithm\.curriculum\.options"):
        Draws.of(chosen(settings), TASKS, steps=3, seed=0)


def test_tasks_are_read_as_they_were_written(tmp_path: Path) -> None:
    class Own(Env):
        def tasks(self, split: str) -> list[Task]:
            return TASKS[:2]

    write_tasks(Own(), tmp_path, test_limit=1, train_minimum=3)
    assert read_tasks(tmp_path) == [*TASKS[:2], *TASKS[:2]]


# Through the trainer


class Prompts(list[dict[str, Any]]):
    """verl's data set, as far as it is used."""

    def __init__(self) -> None:
        rows = [{"extra_info": {"task": json.dumps(task.to_dict())}, "raw_prompt": [], "index": i}
                for i, task in enumerate(TASKS)]  # fmt: skip
        super().__init__(rows)
        self.dataframe = {"extra_info": [row["extra_info"] for row in rows]}


def trainer(monkeypatch: pytest.MonkeyPatch, folder: Path, *settings: str) -> SyncTrainer:
    """One without workers or an engine; what verl would write or read of a checkpoint is left out."""
    made = object.__new__(SyncTrainer)
    made.prepare(load_config("env", ["algorithm.tasks_per_step=2", "steps=9", *settings]))
    made.train_dataset = Prompts()
    made.config = OmegaConf.create(
        {"data": {"train_batch_size": 2}, "trainer": {"default_local_dir": str(folder)}}
    )
    made.global_steps, made.replay_buffer = 1, object.__new__(WatchfulReplayBuffer)
    made._events = NullSink()
    monkeypatch.setattr(PPOTrainer, "_init_dataloader", lambda self: None)
    made._init_dataloader()
    return made


def rows(outcomes: dict[str, list[bool]]) -> list[Row]:
    """Two rows of each episode: an episode counts once."""
    return [
        Row(f"{task}_{i}_{row}", {"task": task, "success": success})
        for task, found in outcomes.items()
        for i, success in enumerate(found)
        for row in range(2)
    ]


def test_a_step_draws_its_prompts_and_learns_from_its_episodes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = trainer(monkeypatch, tmp_path, "algorithm.filters.solved=0.5")
    found = rows({"t3": [True, False], "t4": [True, True, False], "t5": [False, False, True]})
    monkeypatch.setattr(curriculum_trainer, "fetch_rows", lambda batch, tokens: found)
    batch = KVBatchMeta(partition_id="train", keys=["t3_0_0"], tags=[{}])
    monkeypatch.setattr(PPOTrainer, "_step_once", lambda self, *args: batch)
    first = made._next_train_batch(6)
    assert sorted(first["index"]) == [0, 1, 2, 3, 4, 5] and len(set(first["uid"])) == 6
    assert made._step_once({}, {}, 2) is batch
    later = [index for _ in range(9) for index in made._next_train_batch(2)["index"]]
    assert set(later) == {0, 1, 2, 5}
    assert made._draw_metrics() == {"curriculum/solved": 2, "curriculum/tasks": 4}


def test_verl_draws_where_the_algorithm_does_not_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = trainer(monkeypatch, tmp_path)
    monkeypatch.setattr(PPOTrainer, "_fetch_one_gen_batch", lambda self: "verl's")
    assert made._fetch_one_gen_batch() == "verl's" and made._draw_metrics() == {}
    made._learn(KVBatchMeta(partition_id="train", keys=[], tags=[]))  # asks for nothing


def test_a_run_that_is_gone_on_with_knows_what_is_solved_and_where_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Killed after its second step, it draws what the run that was not killed draws."""
    how = ["algorithm.filters.solved=0.5", "algorithm.curriculum={name: tiers, options: {bounds: [8]}}"]
    named: list[Path] = []

    def verls_last(self: Any) -> None:
        folder = tmp_path / f"global_step_{self.global_steps}"
        named.append(folder / FILE)
        assert named[-1].is_file()  # a kill after verl has named its checkpoint finds it whole
        (tmp_path / "latest_checkpointed_iteration.txt").write_text(str(self.global_steps))

    monkeypatch.setattr(PPOTrainer, "_save_checkpoint", verls_last)
    made = trainer(monkeypatch, tmp_path, *how)
    monkeypatch.setattr(
        curriculum_trainer, "fetch_rows", lambda batch, tokens: rows({"t1": [True], "t2": [False]})
    )
    made._next_train_batch()
    made._learn(KVBatchMeta(partition_id="train", keys=[], tags=[]))
    made.global_steps = 2
    made._next_train_batch()
    made._save_checkpoint()
    assert len(named) == 1 and clear_unsealed(tmp_path) == 2

    def verls_resumed(self: Any) -> None:
        self.global_steps = 2

    monkeypatch.setattr(PPOTrainer, "_load_checkpoint", verls_resumed)
    again = trainer(monkeypatch, tmp_path, *how)
    again._load_checkpoint()
    for step in range(3, 10):
        made.global_steps = again.global_steps = step
        drawn = list(made._next_train_batch()["index"])
        assert list(again._next_train_batch()["index"]) == drawn and 1 not in drawn
    assert again._draw_metrics() == made._draw_metrics()
    assert again._draw_metrics()["curriculum/tier"] == 2 and again._draw_metrics()["curriculum/solved"] == 1


def test_groups_that_are_replaced_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every episode was right, DAPO plays another group, and this one's rows are cleared."""
    buffer = object.__new__(WatchfulReplayBuffer)
    tags = {"a": {"is_prompt": True}, "a_0_0": {"n": 1}, "a_1_0": {"n": 2}, "b_0_0": {}}
    buffer.partitions = {"train": tags}
    cleared: list[set[str]] = []
    buffer._clear_groups = lambda partition, groups: cleared.append(groups)
    told: list[KVBatchMeta] = []
    buffer.on_replaced = told.append
    reasons: Any = (set(), {"a"}, set(), Counter({1.0: 1}))
    buffer.trainer_mode = "sync"
    evicted, *_ = buffer._evict_terminal_groups(1, "train", reasons)
    assert evicted == {"a"} and cleared == [{"a"}]
    assert [(batch.keys, batch.tags) for batch in told] == [(["a_0_0", "a_1_0"], [{"n": 1}, {"n": 2}])]

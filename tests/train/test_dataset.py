"""Tasks as the rows that verl's data loader reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentrl import DataError, Env, Message, Task
from agentrl.train import dataset
from agentrl.train.dataset import write_tasks

parquet = pytest.importorskip("pyarrow.parquet")


class Quiz(Env):
    """Asks."""

    prompt = "Answer."

    def messages(self, task: Task) -> list[Message]:
        """Like an opening that shows what reset() made: there is none before an episode."""
        raise AssertionError("nothing has been reset")

    def __init__(self, train: int = 3, test: int = 2) -> None:
        super().__init__()
        self.sizes = {"train": train, "test": test}

    def tasks(self, split: str) -> Iterator[Task]:
        for number in range(self.sizes[split]):
            metadata = {"n": number} if number % 2 else {}
            yield Task(f"{split} {number}?", answer=[number, "é"], metadata=metadata)


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = parquet.read_table(folder / f"{split}.parquet").to_pylist()
    return read


def tasks(folder: Path, split: str) -> list[Task]:
    return [Task(**json.loads(row["extra_info"]["task"])) for row in rows(folder, split)]


def test_a_row_holds_the_whole_task(tmp_path: Path) -> None:
    env = Quiz()
    assert write_tasks(env, tmp_path, test_limit=10, train_minimum=3) == (3, 2)
    row = rows(tmp_path, "train")[1]
    assert row["data_source"] == "quiz"
    assert row["prompt"] == [{"role": "user", "content": "train 1?"}]
    assert (row["extra_info"]["index"], row["extra_info"]["split"]) == (1, "train")
    assert tasks(tmp_path, "train") == list(env.tasks("train"))
    assert tasks(tmp_path, "test") == list(env.tasks("test"))


@pytest.mark.parametrize(("minimum", "expected"), [(1, 3), (3, 3), (4, 6), (7, 9)])
def test_few_tasks_are_repeated_whole_until_there_is_a_batch(
    tmp_path: Path, minimum: int, expected: int
) -> None:
    assert write_tasks(Quiz(), tmp_path, test_limit=10, train_minimum=minimum) == (3, 2)
    written = [task.prompt for task in tasks(tmp_path, "train")]
    assert written == ["train 0?", "train 1?", "train 2?"] * (expected // 3)
    assert [row["extra_info"]["index"] for row in rows(tmp_path, "train")] == list(range(expected))
    assert len(tasks(tmp_path, "test")) == 2


def test_no_more_held_out_tasks_than_asked_for(tmp_path: Path) -> None:
    assert write_tasks(Quiz(test=50), tmp_path, test_limit=5, train_minimum=1) == (3, 5)
    assert [task.prompt for task in tasks(tmp_path, "test")] == [f"test {i}?" for i in range(5)]


def test_endless_tasks_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "TRAIN_LIMIT", 4)
    assert write_tasks(Quiz(train=10**9), tmp_path, test_limit=1, train_minimum=1) == (4, 1)


@pytest.mark.parametrize("empty", ["train", "test"])
def test_a_split_without_tasks_is_named_and_nothing_is_written(tmp_path: Path, empty: str) -> None:
    with pytest.raises(DataError, match=f"'quiz' has no tasks in its '{empty}' split"):
        write_tasks(Quiz(**{empty: 0}), tmp_path, test_limit=1, train_minimum=1)
    assert list(tmp_path.iterdir()) == []

"""Tasks as the Parquet files that verl's data loader reads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

from agentrl.env import Env
from agentrl.errors import DataError
from agentrl.task import Task

TRAIN_LIMIT = 200_000


def write_tasks(env: Env, folder: Path, *, test_limit: int, train_minimum: int) -> tuple[int, int]:
    """Write ``train.parquet`` and ``test.parquet`` into a run folder; returns how many tasks each has.

    Args:
        env: where the tasks come from.
        folder: the run folder.
        test_limit: at most so many held-out tasks.
        train_minimum: tasks are repeated until there are so many; verl needs one full batch.

    Raises:
        DataError: a split is empty.
    """
    train = list(itertools.islice(env.tasks("train"), TRAIN_LIMIT))
    test = list(itertools.islice(env.tasks("test"), test_limit))
    for split, tasks in (("train", train), ("test", test)):
        if not tasks:
            raise DataError(f"Environment {env.name!r} has no tasks in its {split!r} split.")
    repeated = train * -(-train_minimum // len(train)) if len(train) < train_minimum else train
    _write(env, "train", repeated, folder / "train.parquet")
    _write(env, "test", test, folder / "test.parquet")
    return len(train), len(test)


def read_tasks(folder: Path) -> list[Task]:
    """The training tasks that :func:`write_tasks` wrote into a run folder, repetitions included."""
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(folder / "train.parquet", columns=["extra_info"])["extra_info"]
    return [Task(**json.loads(row["task"])) for row in column.to_pylist()]


def _write(env: Env, split: str, tasks: Iterable[Task], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {
            "data_source": env.name,
            # For verl's data loader. The episode loop takes the task, and makes the opening after reset().
            "prompt": [{"role": "user", "content": task.prompt}],
            "reward_model": {"style": "rule", "ground_truth": ""},
            "extra_info": {"index": index, "split": split, "task": json.dumps(task.to_dict())},
        }
        for index, task in enumerate(tasks)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)

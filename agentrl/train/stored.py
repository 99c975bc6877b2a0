"""Episodes' training rows apart from TransferQueue: read out of it, kept, and put into it again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from tensordict import NonTensorData
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

DERIVED = frozenset(
    {
        "advantages", "returns", "loss_shares", "loss_turns", "loss_weights", "kl_weights", "entropy",
        "log_probs", "old_log_probs", "recomputed_log_probs", "ref_log_prob", "values",
        "rollout_is_weights", "token_level_rewards",
    }
)  # fmt: skip
"""Columns that a step computes: of a row that is trained again they are computed again."""


@dataclass(frozen=True)
class Stored:
    """An episode's training rows.

    Args:
        rows: by name what the episode loop wrote, row by row.
        tags: of each row.
        old: log-probs under the policy of the step that the episode was first trained in, row by row. ``[R]``
    """

    rows: list[dict[str, Any]]
    tags: list[dict[str, Any]]
    old: list[torch.Tensor]


@dataclass
class Session:
    """An episode of a step.

    Args:
        name: ``<group>_<number>``.
        keys: of its rows, in order.
        tags: of its rows.
        summary: what the episode loop says of it.
        task: its task's id.
    """

    name: str
    keys: list[str] = field(default_factory=list)
    tags: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    task: str = ""

    @property
    def group(self) -> str:
        """The group of episodes of one task."""
        return self.name.rpartition("_")[0]

    @property
    def number(self) -> int:
        """Its number in the group."""
        return int(self.name.rpartition("_")[2])

    @property
    def versions(self) -> list[int]:
        """The policy versions that sampled it; of one without any, 0."""
        return sorted(int(version) for version in self.summary["versions"]) or [0]


def sessions(batch: KVBatchMeta) -> list[Session]:
    """The episodes of a step, without verl's padding."""
    found: dict[str, Session] = {}
    for key, tag in zip(batch.keys, batch.tags, strict=True):
        if not tag.get("is_padding", False):
            name = key.rpartition("_")[0]
            session = found.setdefault(name, Session(name))
            session.keys.append(key)
            session.tags.append(tag)
    for session in found.values():
        order = sorted(range(len(session.keys)), key=lambda i: int(session.keys[i].rpartition("_")[2]))
        session.keys = [session.keys[i] for i in order]
        session.tags = [session.tags[i] for i in order]
    wanted = [session.keys[-1] for session in found.values()]
    if not wanted:
        return []
    data = tq.kv_batch_get(
        keys=wanted, partition_id=batch.partition_id, select_fields=["extra_fields", "extra_info"]
    )
    told = zip(data["extra_fields"], data["extra_info"], strict=True)
    for session, (extra, info) in zip(found.values(), told, strict=True):
        session.summary = dict(_plain(extra))["episode"]
        session.task = task_of(_plain(info))
    return list(found.values())


def task_of(info: Mapping[str, Any]) -> str:
    """A task's id by its row's ``extra_info``."""
    return str(json.loads(info["task"])["id"])


def read(session: Session, partition: str) -> Stored:
    """An episode's rows, once their old log-probs are there."""
    rows = _rows(session.keys, partition)
    old = [row["old_log_probs"] for row in rows]
    kept = [{name: value for name, value in row.items() if name not in DERIVED} for row in rows]
    for row in kept:
        row["extra_fields"] = {
            **row["extra_fields"],
            "ledger": [],
        }  # it may be long, and is the doctor's alone
    return Stored(kept, [dict(tag) for tag in session.tags], old)


def read_row(batch: KVBatchMeta, key: str) -> dict[str, Any]:
    """One of a step's rows, without what the step computed of it."""
    assert batch.partition_id is not None
    (row,) = _rows([key], batch.partition_id)
    return {name: value for name, value in row.items() if name not in DERIVED}


def _rows(keys: Sequence[str], partition: str) -> list[dict[str, Any]]:
    data = tq.kv_batch_get(keys=list(keys), partition_id=partition)
    columns = {name: _unbound(data[name]) for name in data.keys()}  # noqa: SIM118
    return [{name: _own(values[i]) for name, values in columns.items()} for i in range(len(keys))]


def put(stored: Stored, partition: str, *, group: str, number: int, replayed: Mapping[str, Any]) -> Session:
    """Put an episode's rows into TransferQueue as an episode of a group.

    Args:
        stored: the episode.
        partition: of TransferQueue.
        group: a group's name.
        number: of the episode in it.
        replayed: what its summary then says under ``replayed``.
    """
    fields = []
    for row in stored.rows:
        extra = dict(row["extra_fields"])
        extra["episode"] = {**extra["episode"], "replayed": dict(replayed)}
        fields.append({**row, "uid": group, "session_id": number, "extra_fields": extra})
    name = f"{group}_{number}"
    keys, tags = [f"{name}_{i}" for i in range(len(fields))], [dict(tag) for tag in stored.tags]
    tq.kv_batch_put(keys=keys, partition_id=partition, fields=list_of_dict_to_tensordict(fields), tags=tags)
    summary = fields[-1]["extra_fields"]["episode"]
    return Session(name, keys, tags, summary, task_of(stored.rows[-1]["extra_info"]))


def put_column(batch: KVBatchMeta, column: str, rows: Mapping[str, torch.Tensor]) -> None:
    """Write a column of some of a step's rows, by key."""
    if rows:
        fields = list_of_dict_to_tensordict([{column: row} for row in rows.values()])
        tq.kv_batch_put(keys=list(rows), partition_id=batch.partition_id, fields=fields)


def without(batch: KVBatchMeta, gone: Collection[str]) -> KVBatchMeta:
    """A step without some of its rows, which are cleared from TransferQueue."""
    if not gone:
        return batch
    tq.kv_clear(keys=list(gone), partition_id=batch.partition_id)
    kept = [i for i, key in enumerate(batch.keys) if key not in gone]
    return changed(batch, [batch.keys[i] for i in kept], [batch.tags[i] for i in kept])


def joined(batch: KVBatchMeta, others: Sequence[Session]) -> KVBatchMeta:
    """A step with the rows of further episodes."""
    if not others:
        return batch
    keys = [*batch.keys, *(key for other in others for key in other.keys)]
    return changed(batch, keys, [*batch.tags, *(tag for other in others for tag in other.tags)])


def columns(batch: KVBatchMeta, keys: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Columns of some of a step's rows, as arrays by name, row by row."""
    data = tq.kv_batch_get(keys=list(keys), partition_id=batch.partition_id, select_fields=list(names))
    found = {name: [np.asarray(row) for row in data[name].unbind()] for name in names}
    return [{name: found[name][i] for name in names} for i in range(len(keys))]


def read_column(batch: KVBatchMeta, keys: Sequence[str], name: str) -> dict[str, torch.Tensor]:
    """A column of some of a step's rows, by key."""
    data = tq.kv_batch_get(keys=list(keys), partition_id=batch.partition_id, select_fields=[name])
    return {key: _own(row) for key, row in zip(keys, data[name].unbind(), strict=True)}


def changed(batch: KVBatchMeta, keys: list[str], tags: list[dict[str, Any]]) -> KVBatchMeta:
    """A step of other rows."""
    return KVBatchMeta(
        keys=keys,
        tags=tags,
        partition_id=batch.partition_id,
        fields=batch.fields,
        extra_info=batch.extra_info,
    )


def _plain(value: Any) -> Any:
    return value.data if isinstance(value, NonTensorData) else value


def _unbound(column: Any) -> Sequence[Any]:
    return column.unbind() if isinstance(column, torch.Tensor) else list(column)


def _own(value: Any) -> Any:
    """A row's value by itself: a tensor that shares no storage with its batch, or plain data."""
    return value.clone() if isinstance(value, torch.Tensor) else _plain(value)

"""A step's rows from TransferQueue as arrays, and the algorithm's columns back into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from agentrl.algorithms import Algorithm
from agentrl.algorithms.aggregate import token_shares
from agentrl.algorithms.batch import Batch
from agentrl.algorithms.groups import dense
from agentrl.algorithms.recalibrate import recalibrated
from agentrl.algorithms.running import RunningPercentile
from agentrl.train.algorithm import Plan
from agentrl.train.batch import fetch_rows
from agentrl.train.columns import Measured, columns, groups_kept

if TYPE_CHECKING:
    from agentrl.train.experience import Replayed

Grid = npt.NDArray[Any]

FIELDS = ("response_mask", "rm_scores", "turn_ids")
"""Columns that every algorithm needs."""


def add_columns(
    batch: KVBatchMeta,
    plan: Plan,
    *,
    horizon: int,
    update_rows: int,
    median: RunningPercentile | None = None,
    left_out: Collection[str] = (),
    turn_advantages: Mapping[str, Grid] | None = None,
) -> KVBatchMeta:
    """Compute advantages, shares and weights of a step's rows and put them beside its columns.

    verl's own step for this hands an estimator neither turns nor times nor versions, so it is replaced whole.
    verl's padding rows take no part and get zeros.

    Args:
        batch: the step's rows; keys are ``{task}_{session}_{row}``.
        plan: the algorithm.
        horizon: of ``sum_norm``, in tokens.
        update_rows: rows of one optimizer update.
        median: groups' means so far.
        left_out: episodes, as ``{task}_{session}``, that are in no baseline and have no share.
        turn_advantages: by a row's key what a critic of utterances says of its tokens' turns. ``[R]``
    """
    real = _real(batch)
    read = _read(batch, [batch.keys[i] for i in real], plan)
    mask = read["response_mask"].astype(bool)
    counted = [batch.keys[i].rpartition("_")[0] not in left_out for i in real]
    mask &= np.asarray(counted)[:, None]
    keys = [batch.keys[i] for i in real]
    critic = None if turn_advantages is None else _padded([turn_advantages[key] for key in keys])
    rows, turns = replace(_batch(keys, mask, read), turn_advantages=critic), read["turn_ids"]
    added: dict[str, Grid] = dict(
        columns(
            rows,
            plan.algorithm,
            horizon=horizon,
            measured=Measured(
                entropy=read.get("entropy"),
                logprobs=read.get("old_log_probs"),
                seconds=read.get("turn_seconds"),
                truncated=_truncated(batch) if plan.algorithm.filters.truncated == "mask" else None,
            ),
            median=median,
            updates=max(1, len(batch.keys) // update_rows),
        )
    )
    if plan.loss is None:
        if plan.algorithm.ratio.level == "turn":
            added["loss_turns"] = np.where(mask, turns, 0)
    else:
        added = {name: added[name] for name in ("advantages", "returns")}
    return _write(batch, real, added)


def add_replay_columns(
    batch: KVBatchMeta, plan: Plan, replayed: Replayed, *, horizon: int, update_rows: int
) -> KVBatchMeta:
    """The same for rows of earlier steps: advantages are rewards less a baseline (SPEAR).

    Args:
        batch: the rows, with verl's padding.
        plan: the algorithm.
        replayed: their old log-probs, the baseline, and how much the loss counts.
        horizon: of ``sum_norm``, in tokens.
        update_rows: rows of one optimizer update.
    """
    real = _real(batch)
    keys = [batch.keys[i] for i in real]
    read = _fetch(batch, keys, FIELDS)
    mask = read["response_mask"].astype(bool)
    rows = _batch(keys, mask, read)
    tokens = rows.tokens
    advantages, _ = recalibrated(list(tokens.episode_reward), replayed.baseline)
    shares = token_shares(rows, plan.algorithm.aggregation, horizon=horizon)
    updates = max(1, len(batch.keys) // update_rows)
    of_tokens = tokens.placed(advantages[tokens.episode])
    added: dict[str, Grid] = {
        "advantages": of_tokens,
        "returns": of_tokens,
        "loss_shares": shares * (updates * replayed.weight),
        "old_log_probs": _padded([np.asarray(replayed.old[key]) for key in keys]),
    }
    if plan.algorithm.ratio.level == "turn":
        added["loss_turns"] = np.where(mask, read["turn_ids"], 0)
    return _write(batch, real, added)


def replaced_groups(batch: KVBatchMeta, algorithm: Algorithm) -> dict[str, float | None]:
    """What becomes of groups whose place others may take (DAPO, UI-S1).

    Args:
        batch: all rows of these groups.
        algorithm: whose filters say so.

    Returns:
        By group, its mean reward if it is to be replaced, else ``None``.
    """
    how = algorithm.filters
    drop = "drop" if how.zero_variance == "resample" else "keep"
    least = how.least_std if how.below_std == "resample" else None
    judged = how.model_copy(update={"zero_variance": drop, "least_std": least, "top_share": None})
    names = np.unique([key.split("_")[0] for key in batch.keys]).tolist()
    read = _fetch(batch, batch.keys, [*FIELDS, "turn_matches"])
    tokens = _batch(batch.keys, read["response_mask"].astype(bool), read).tokens
    kept = groups_kept(tokens, algorithm, judged)
    return {
        name: None if kept[own].any() else float(tokens.episode_reward[own].mean())
        for number, name in enumerate(names)
        if (own := tokens.episode_group == number).any()
    }


def has_lone_groups(batch: KVBatchMeta) -> bool:
    """Whether a group has one episode alone, the others being void: verl would not compare that with any."""
    sessions = {batch.keys[i].rpartition("_")[0] for i in _real(batch)}
    return 1 in Counter(session.rpartition("_")[0] for session in sessions).values()


def _truncated(batch: KVBatchMeta) -> npt.NDArray[np.bool_]:
    """Which real rows are of episodes that ran into a limit. ``[N]``"""
    return np.asarray([row.episode["status"] == "truncated" for row in fetch_rows(batch, tokens=[])])


def _real(batch: KVBatchMeta) -> list[int]:
    return [i for i, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]


def _batch(keys: list[str], mask: Grid, read: dict[str, Grid]) -> Batch:
    parts = [key.rsplit("_", 2) for key in keys]
    tasks = dense([task for task, _, _ in parts])
    return Batch(
        mask=mask,
        rewards=read["rm_scores"],
        turns=read["turn_ids"],
        episodes=dense([f"{task}_{session}" for task, session, _ in parts]),
        groups=tasks,
        order=np.asarray([int(row) for _, _, row in parts]),
        values=read.get("values"),
        match=read["turn_matches"].astype(bool) if "turn_matches" in read else None,
    )


def _read(batch: KVBatchMeta, keys: list[str], plan: Plan) -> dict[str, Grid]:
    algorithm = plan.algorithm
    fields = list(FIELDS)
    fields += ["values"] if plan.has_critic else []
    fields += ["turn_matches"] if plan.needs_matches else []
    fields += ["entropy"] if plan.needs_entropy else []
    fields += ["old_log_probs"] if algorithm.weights.kind == "balanced" else []
    fields += ["turn_seconds"] if algorithm.weights.kind == "duration" else []
    return _fetch(batch, keys, fields)


def _fetch(batch: KVBatchMeta, keys: list[str], fields: Sequence[str]) -> dict[str, Grid]:
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=list(fields))
    return {name: _padded([np.asarray(row) for row in data[name].unbind()]) for name in fields}


def _padded(rows: list[Grid]) -> Grid:
    grid = np.zeros((len(rows), max(len(row) for row in rows)), dtype=rows[0].dtype)
    for i, row in enumerate(rows):
        grid[i, : len(row)] = row
    return grid


def _write(batch: KVBatchMeta, real: list[int], added: dict[str, Grid]) -> KVBatchMeta:
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["response_mask"])
    lengths = [len(row) for row in data["response_mask"].unbind()]
    place = {row: i for i, row in enumerate(real)}
    fields = {}
    for name, grid in added.items():
        nothing = np.zeros(max(lengths), dtype=grid.dtype)
        rows = [grid[place[i]] if i in place else nothing for i in range(len(lengths))]
        tensors = [torch.from_numpy(row[:n].copy()) for row, n in zip(rows, lengths, strict=True)]
        fields[name] = torch.nested.as_nested_tensor(tensors, layout=torch.jagged)
    written: KVBatchMeta = tq.kv_batch_put(
        keys=batch.keys, partition_id=batch.partition_id, fields=TensorDict(fields, batch_size=len(lengths))
    )
    return written

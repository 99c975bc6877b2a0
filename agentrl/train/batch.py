"""A step's rows in TransferQueue: reading them back, and their old log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from agentrl.chat.vision import digest_of
from agentrl.doctor import Row

TOKEN_FIELDS = [
    "prompts",
    "responses",
    "response_mask",
    "rm_scores",
    "rollout_log_probs",
    "old_log_probs",
    "advantages",
]


VERSIONS = "versions"

STALE_FIELDS = [VERSIONS, "recomputed_log_probs"]
"""What asynchronous training has beside them."""


def fetch_rows(batch: KVBatchMeta, *, tokens: Sequence[str], images: bool = False) -> list[Row]:
    """The step's rows, without verl's padding rows.

    Args:
        batch: what was trained on.
        tokens: the token columns to fetch.
        images: whether to fetch with them the positions and what there is of images.
    """
    real = [i for i, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
    keys = [batch.keys[i] for i in real]
    columns_wanted = [*tokens, *(["position_ids"] if images else [])] if tokens else []
    fields = ["extra_fields", *columns_wanted, *(["multi_modal_inputs"] if images and tokens else [])]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)
    extras = [dict(getattr(extra, "data", extra)) for extra in data["extra_fields"]]
    columns: dict[str, list[Any]] = {
        name: [np.asarray(row) for row in data[name].unbind()] for name in columns_wanted
    }
    seen = list(data["multi_modal_inputs"]) if "multi_modal_inputs" in fields else [{}] * len(keys)
    return [
        Row(
            key=key,
            episode=extras[i]["episode"],
            ledger=extras[i].get("ledger") or [],
            fingerprint=extras[i].get("fingerprint"),
            columns={name: column[i] for name, column in columns.items()},
            **_images(dict(getattr(seen[i], "data", seen[i]))),
        )
        for i, key in enumerate(keys)
    ]


def _images(inputs: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a row's images, and fingerprints of the pixel values that the trainer has for each."""
    if "image_grid_thw" not in inputs:
        return {}
    grids = [[int(side) for side in grid] for grid in inputs["image_grid_thw"]]
    ends = np.cumsum([int(np.prod(grid)) for grid in grids])
    pieces = np.split(np.asarray(inputs["pixel_values"]), ends[:-1])
    return {"grids": grids, "pixels": [digest_of(piece) for piece in pieces]}


def take_engine_logprobs(batch: KVBatchMeta) -> KVBatchMeta:
    """Train against the policy that sampled: its log-probs become the old ones."""
    data = tq.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=["rollout_log_probs"]
    )
    data["old_log_probs"] = data.pop("rollout_log_probs")
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=data)
    return batch

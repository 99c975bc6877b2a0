"""Reading a step's rows back out of TransferQueue."""

from __future__ import annotations

from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta

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


def fetch_rows(batch: KVBatchMeta, *, tokens: bool) -> list[Row]:
    """The step's rows, without verl's padding rows.

    Args:
        batch: what was trained on.
        tokens: whether to fetch the token columns too.
    """
    real = [i for i, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
    keys = [batch.keys[i] for i in real]
    fields = ["extra_fields", *(TOKEN_FIELDS if tokens else [])]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=fields)
    extras = [dict(getattr(extra, "data", extra)) for extra in data["extra_fields"]]
    columns: dict[str, list[Any]] = (
        {name: [np.asarray(row) for row in data[name].unbind()] for name in TOKEN_FIELDS} if tokens else {}
    )
    return [
        Row(
            key=key,
            episode=extras[i]["episode"],
            ledger=extras[i].get("ledger") or [],
            columns={name: column[i] for name, column in columns.items()},
        )
        for i, key in enumerate(keys)
    ]

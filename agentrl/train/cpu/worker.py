"""verl's training worker on a CPU, where a snapshot of the weights must be a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verl.experimental.separation.engine_workers import DetachActorWorker


class SnapshotWorker(DetachActorWorker):
    """Keeps earlier weights.

    verl moves a snapshot to the CPU with ``tensor.cpu()``. Where the weights live there already, that is the
    same memory: the snapshot would follow the training, and restoring it would do nothing, without a word.
    """

    @property
    def copy_handler(self) -> Callable[[Any], Any]:
        """Makes a snapshot of a module sharded by FSDP2."""
        save = super().copy_handler

        def copied(module: Any) -> Any:
            shards, spec = save(module)
            return {name: (tensor.clone(), own) for name, (tensor, own) in shards.items()}, spec

        return copied

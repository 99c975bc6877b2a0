"""Weights from the training processes to the engines' over gloo: verl's checkpoint engine for CPUs.

Rank 0 of the training processes broadcasts buckets of bytes to all engines. Each update has a process group
of its own, so one that an engine did not survive spoils none after it; joining takes milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from verl.checkpoint_engine.base import (
    CheckpointEngine,
    CheckpointEngineRegistry,
    TensorMeta,
    merge_weight_chunks,
    split_weight_chunks,
)

SECONDS = 120.0
"""Longest wait for a member of the group."""

_LIMIT = timedelta(seconds=SECONDS)
_OUTSIDE = -1


@CheckpointEngineRegistry.register("gloo")
class GlooCheckpointEngine(CheckpointEngine):
    """One process's end of the transfer.

    Args:
        bucket_size: bytes that are sent at once.
        is_master: whether this is the process that sends.
    """

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self._bucket_size, self._is_master = bucket_size, is_master
        self._store: dist.TCPStore | None = None
        self._group: dist.ProcessGroupGloo | None = None
        self._round = 0

    def prepare(self) -> dict[str, Any] | None:
        """Where the group meets for this update; only the sender says so."""
        if not self._is_master:
            return None
        self._round += 1
        host = _address()
        if self._store is None:
            self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_LIMIT)
        return {"host": host, "port": self._store.port, "round": self._round}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Any]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """The first training process and all engines; the other training processes stay outside."""
        meeting, size = metadata[0], 1 + rollout_world_size
        outside = [_OUTSIDE] * (actor_wg_world_size - 1)

        def members(ranks: list[int]) -> dict[str, list[Any]]:
            return {
                "rank": ranks,
                "world_size": [size] * len(ranks),
                "meeting": [meeting] * len(ranks),
            }

        return members([0, *outside]), members(list(range(1, size)))

    def init_process_group(self, rank: int, world_size: int, meeting: dict[str, Any]) -> None:
        """Join the group of this update."""
        if rank == _OUTSIDE:
            return
        if self._store is None:
            self._store = dist.TCPStore(
                meeting["host"], meeting["port"], is_master=False, wait_for_workers=False, timeout=_LIMIT
            )
        place = dist.PrefixStore(f"update-{meeting['round']}", self._store)
        options = dist.ProcessGroupGloo._Options()
        options._timeout = _LIMIT
        # By itself gloo takes what the machine's name stands for, which for many is an address of no other's.
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=_address())]
        self._group = dist.ProcessGroupGloo(place, rank, world_size, options)

    def finalize(self) -> None:
        """Leave the group."""
        self._group = None

    @torch.no_grad()
    async def send_weights(self, weights: Any, global_steps: int | None = None) -> dict[str, float]:
        """Broadcast ``(name, tensor)`` pairs; returns what it took, for the metrics."""
        if self._group is None:
            for _ in weights:  # sharded weights are gathered by all training processes together
                continue
            return {}
        began, sent = time.perf_counter(), 0
        metas: list[TensorMeta] = []
        pieces: list[torch.Tensor] = []
        filled = 0
        async for meta, piece in split_weight_chunks(weights, self._bucket_size):
            if filled + meta.chunk_size > self._bucket_size:
                await asyncio.to_thread(self._send, metas, pieces, last=False)
                metas, pieces, sent, filled = [], [], sent + filled, 0
            metas.append(meta)
            pieces.append(piece.detach().cpu())
            filled += meta.chunk_size
        await asyncio.to_thread(self._send, metas, pieces, last=True)
        return {"sync/bytes": float(sent + filled), "sync/seconds": time.perf_counter() - began}

    @torch.no_grad()
    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[Any]:
        """The ``(name, tensor)`` pairs that are being sent."""
        async for pair in merge_weight_chunks(self._received(), self._bucket_size):
            yield pair

    async def _received(self) -> AsyncIterator[tuple[TensorMeta, torch.Tensor]]:
        last = False
        while not last:
            metas, bucket, last = await asyncio.to_thread(self._receive)
            begin = 0
            for meta in metas:
                yield meta, bucket[begin : begin + meta.chunk_size]
                begin += meta.chunk_size

    def _send(self, metas: list[TensorMeta], pieces: list[torch.Tensor], *, last: bool) -> None:
        header = json.dumps({"last": last, "tensors": [_describe(meta) for meta in metas]}).encode()
        self._broadcast(torch.tensor([len(header)], dtype=torch.int64))
        self._broadcast(torch.frombuffer(bytearray(header), dtype=torch.uint8))
        if pieces:
            self._broadcast(torch.cat(pieces))

    def _receive(self) -> tuple[list[TensorMeta], torch.Tensor, bool]:
        length = self._broadcast(torch.zeros(1, dtype=torch.int64))
        raw = self._broadcast(torch.empty(int(length), dtype=torch.uint8))
        header = json.loads(raw.numpy().tobytes())
        metas = [_read(fields) for fields in header["tensors"]]
        bucket = torch.empty(sum(meta.chunk_size for meta in metas), dtype=torch.uint8)
        return metas, self._broadcast(bucket) if metas else bucket, bool(header["last"])

    def _broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        assert self._group is not None, "init_process_group() comes first"
        options = dist.BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        self._group.broadcast([tensor], options).wait()
        return tensor


def _address() -> str:
    """Where the other machines of the cluster find this one."""
    return str(ray.util.get_node_ip_address()).strip("[]")


def _describe(meta: TensorMeta) -> list[Any]:
    dtype = str(meta.dtype).removeprefix("torch.")
    return [meta.name, list(meta.shape), dtype, meta.chunk_offset, meta.chunk_size]


def _read(fields: list[Any]) -> TensorMeta:
    name, shape, dtype, offset, size = fields
    return TensorMeta(
        name=name, shape=torch.Size(shape), dtype=getattr(torch, dtype), chunk_offset=offset,
        chunk_size=size, offset=None,
    )  # fmt: skip

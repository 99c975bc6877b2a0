"""Weights over gloo: every byte arrives, in one bucket or in many, at every engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from agentrl.train.cpu.gloo_engine import GlooCheckpointEngine


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "embedding": torch.randn(33, 16), "bias": torch.randn(7), "half": torch.randn(5, 4).bfloat16(),
        "scalar": torch.tensor(3.0), "counts": torch.arange(6),
    }  # fmt: skip


async def update(
    sender: GlooCheckpointEngine, receivers: list[GlooCheckpointEngine], outside: int
) -> list[Any]:
    meeting = sender.prepare()
    assert all(receiver.prepare() is None for receiver in receivers)
    training, engines = GlooCheckpointEngine.build_topology(
        1 + outside, len(receivers), [meeting, *[None] * len(receivers)]
    )
    assert training["rank"] == [0, *[-1] * outside]

    def join(engine: GlooCheckpointEngine, members: dict[str, list[Any]], index: int) -> None:
        engine.init_process_group(**{name: values[index] for name, values in members.items()})

    await asyncio.gather(
        asyncio.to_thread(join, sender, training, 0),
        *(asyncio.to_thread(join, receiver, engines, i) for i, receiver in enumerate(receivers)),
    )

    async def receive(engine: GlooCheckpointEngine) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() async for name, tensor in engine.receive_weights()}

    def pairs() -> Iterator[tuple[str, torch.Tensor]]:
        yield from weights().items()

    sent, *received = await asyncio.gather(sender.send_weights(pairs()), *map(receive, receivers))
    for engine in [sender, *receivers]:
        engine.finalize()
    return [sent, *received]


@pytest.mark.parametrize("bucket", [64, 1 << 20])
async def test_all_weights_arrive_at_all_engines_again_and_again(bucket: int) -> None:
    sender = GlooCheckpointEngine(bucket, is_master=True)
    receivers = [GlooCheckpointEngine(bucket) for _ in range(2)]
    for _ in range(2):
        sent, *received = await update(sender, receivers, outside=0)
        assert sent["sync/bytes"] == sum(tensor.nbytes for tensor in weights().values())
        for copy in received:
            assert list(copy) == list(weights())
            assert all(torch.equal(copy[name], tensor) for name, tensor in weights().items())


async def test_other_training_processes_only_take_part_in_gathering() -> None:
    engine, gathered = GlooCheckpointEngine(64), []
    engine.init_process_group(-1, 2, {})
    assert await engine.send_weights(gathered.append(name) for name in weights()) == {}
    assert gathered == list(weights())
    _, engines = GlooCheckpointEngine.build_topology(3, 2, [{"round": 1}, None, None, None, None])
    assert engines["rank"] == [1, 2] and engines["world_size"] == [3, 3]

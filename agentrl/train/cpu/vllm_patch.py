"""vLLM's plug-in entry point: loaded in every process of the engine."""

from __future__ import annotations

from typing import Any

from agentrl.chat.vision import image_only_processors
from agentrl.train.cpu import active


def register() -> None:
    """Load processors without a video part where that cannot be had, and keep linear weights reloadable.

    On the CPU vLLM packs each linear layer's weight for its CPU kernel and empties the parameter, after which
    weights from the trainer have nowhere to go: the sync fails and the trainer waits for ever.
    """
    image_only_processors()
    if not active():
        return
    import torch
    from vllm.model_executor.layers import utils

    def plain_linear(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = plain_linear

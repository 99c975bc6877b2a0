"""Weights that repair what the behaviour policy and the policy before the update differ in.

Torch; all tensors ``[N, T]``. The weights carry no gradient.
"""

from __future__ import annotations

import torch

from agentrl.algorithms.ratios import ratio
from agentrl.algorithms.spec import Correction


def correction_weights(
    old: torch.Tensor, behaviour: torch.Tensor, mask: torch.Tensor, how: Correction
) -> torch.Tensor:
    """The factor of each token's loss: made of ``w = old / behaviour``.

    - ``none``: 1. ``decoupled``: w (AReaL).
    - ``tis``: ``min(w, cap)`` (truncated importance sampling; DART's code has cap 1).
    - ``mask``: w, and 0 where it exceeds the cap (AReaL's earlier default, cap 5).
    - ``clamp``: w within floor and cap.

    At level sequence w is the geometric mean over the row (AReaL). A row whose behaviour log-probs are all 0
    has none on record, and weighs 1 (DART).

    Args:
        old: log-probs of the policy before the update.
        behaviour: log-probs of the policy that sampled.
        mask: 1 where a token counts.
        how: which.
    """
    ones = torch.ones_like(old)
    if how.kind == "none":
        return ones
    counts = mask.bool()
    weight = ratio(old.detach(), behaviour.detach(), counts, level=how.level, mean=how.level == "sequence")
    recorded = ((behaviour != 0) & counts).any(-1, keepdim=True)
    if how.kind == "tis":
        weight = weight.clamp(max=how.cap)
    elif how.kind == "clamp":
        weight = weight.clamp(how.floor, how.cap)
    elif how.kind == "mask":
        weight = torch.where(weight > how.cap, 0.0, weight)
    return torch.where(recorded, weight, ones)

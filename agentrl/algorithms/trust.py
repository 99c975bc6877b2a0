"""Trust regions: how far one update may move the policy. Torch; all tensors ``[N, T]``."""

from __future__ import annotations

import torch

from agentrl.algorithms.spec import Trust


def bounds(how: Trust) -> tuple[float, float]:
    """Between which ratios an update is free.

    ``ppo``: ``[1 - low, 1 + high]`` (two numbers: DAPO's decoupled clip). ``reciprocal``:
    ``[1 / (1 + low), 1 + high]`` (LOOP's released code).
    """
    low = 1.0 / (1.0 + how.clip_low) if how.kind == "reciprocal" else 1.0 - how.clip_low
    return low, 1.0 + how.clip_high


def clipped_loss(
    ratio: torch.Tensor, advantages: torch.Tensor, how: Trust
) -> tuple[torch.Tensor, torch.Tensor]:
    """``-min(ratio A, clip(ratio) A)``, and where the clip has taken the gradient away.

    With ``dual_clip`` c, a negative advantage counts at most c times (Ye et al. 2020).
    """
    low, high = bounds(how)
    free, held = -advantages * ratio, -advantages * ratio.clamp(low, high)
    loss, clipped = torch.maximum(free, held), held > free
    if how.dual_clip is not None:
        most = -advantages * how.dual_clip
        loss = torch.where(advantages < 0, torch.minimum(loss, most), loss)
    return loss, clipped


def truncated_loss(
    logprobs: torch.Tensor, behaviour: torch.Tensor, advantages: torch.Tensor, cap: float
) -> torch.Tensor:
    """``-sg(min(pi / mu, cap)) A log pi``: one-sided, no clip below (LlamaRL's AIPO; ScaleRL's CISPO).

    Args:
        logprobs: of the policy, with its gradient.
        behaviour: of the policy that sampled.
        advantages: of the tokens.
        cap: most that the weight may be; LlamaRL's lie between 2 and 10.
    """
    weight = torch.exp((logprobs - behaviour).detach().clamp(-20.0, 20.0)).clamp(max=cap)
    return -weight * advantages * logprobs

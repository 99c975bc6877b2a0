"""Estimates of the KL divergence from a reference, per token. Torch; all tensors ``[N, T]``."""

from __future__ import annotations

from typing import Literal

import torch

LIMIT = 20.0


def kl_estimate(
    logprobs: torch.Tensor, reference: torch.Tensor, form: Literal["k1", "abs", "k2", "k3"] = "k3"
) -> torch.Tensor:
    """Estimates of ``KL(policy || reference)`` from tokens that the policy sampled (Schulman 2020).

    With ``d = logprobs - reference``: ``k1`` is d, ``abs`` its size, ``k2`` half its square, ``k3``
    ``exp(-d) - 1 + d``: unbiased, and never negative. As in verl, k3 is kept within 10.
    """
    delta = logprobs - reference
    if form == "k1":
        return delta
    if form == "abs":
        return delta.abs()
    if form == "k2":
        return 0.5 * delta.square()
    inverse = (-delta).clamp(-LIMIT, LIMIT)
    return (inverse.exp() - inverse - 1.0).clamp(-10.0, 10.0)

"""Clip-cov: tokens whose advantage and log-prob vary together most lose their gradient."""

from __future__ import annotations

import torch

from agentrl.algorithms.spec import ClipCov


def covariance(logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``(A - mean A)(log pi - mean log pi)`` over the tokens that count; 0 elsewhere. ``[N, T]``"""
    counts = mask.to(logprobs.dtype)
    number = counts.sum().clamp(min=1)
    a, p = advantages.detach(), logprobs.detach()
    centred_a = a - (a * counts).sum() / number
    centred_p = p - (p * counts).sum() / number
    return centred_a * centred_p * counts


def kept_tokens(
    logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    clipped: torch.Tensor,
    how: ClipCov,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """1 where a token's loss counts, 0 at those drawn (Cui et al. 2025; SPEAR).

    ``max(int(share * tokens), 1)`` tokens are drawn at random among those whose covariance lies between the
    bounds and whose ratio was not clipped. Means are over what is given: a micro-batch, in training.

    Args:
        logprobs, advantages, mask: ``[N, T]``
        clipped: where the trust region has taken the gradient. ``[N, T]``
        how: share and bounds.
        generator: of the draw; default: torch's own.
    """
    between = covariance(logprobs, advantages, mask)
    candidates = (between > how.low) & (between < how.high) & mask.bool() & ~clipped
    wanted = max(int(how.share * int(mask.sum())), 1)
    places = torch.nonzero(candidates.flatten()).flatten()
    drawn = places[torch.randperm(len(places), generator=generator)[:wanted].to(places.device)]
    kept = torch.ones_like(logprobs).flatten()
    kept[drawn] = 0.0
    return kept.view_as(logprobs)

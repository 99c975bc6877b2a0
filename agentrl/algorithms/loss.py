"""The policy's loss: the parts of an algorithm put together. Torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from agentrl.algorithms.clip_cov import kept_tokens
from agentrl.algorithms.correction import correction_weights
from agentrl.algorithms.kl import kl_estimate
from agentrl.algorithms.ratios import ratio
from agentrl.algorithms.spec import Algorithm, Ramp
from agentrl.algorithms.trust import clipped_loss, truncated_loss


@dataclass(frozen=True)
class LossInputs:
    """What a loss is made of. All tensors ``[N, T]``; only ``logprobs`` and ``entropy`` carry a gradient.

    Args:
        logprobs: of the policy that is trained.
        old: of the policy before the update (AReaL's proximal policy).
        advantages: of the tokens.
        mask: 1 where a token was sampled.
        shares: each token's share in the loss; see :func:`agentrl.algorithms.aggregate.token_shares`.
        behaviour: log-probs of the policy that sampled; default: ``old``.
        turns: index of each token's turn; needed for a ratio per turn.
        reference: log-probs of the reference; needed for a KL against it.
        entropy: of the policy at each token; needed for an entropy bonus.
        weights: factor of each token's policy loss.
        kl_weights: factor of each token's KL.
    """

    logprobs: torch.Tensor
    old: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor
    shares: torch.Tensor
    behaviour: torch.Tensor | None = None
    turns: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    kl_weights: torch.Tensor | None = None


def policy_loss(
    spec: Algorithm, inputs: LossInputs, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch, or of a part of it: losses of parts sum to that of the whole.

    (Clip-cov is the exception, for its means are over the part.)

    Args:
        spec: the algorithm, with plain numbers as coefficients: see :meth:`Algorithm.at`.
        inputs: the tensors.
        generator: of clip-cov's draw.

    Returns:
        The loss, a scalar, and what it is made of: ``policy``, ``kl``, ``entropy`` (all already as they are
        summed, without coefficients), ``clipped`` (share of tokens clipped), ``weight`` (mean correction).

    Raises:
        ValueError: an input is missing that the algorithm needs, or a coefficient is a ramp.
    """
    inputs = _cleaned(inputs)
    mask = inputs.mask
    counts = mask.to(inputs.logprobs.dtype)
    behaviour = inputs.old if inputs.behaviour is None else inputs.behaviour
    losses, clipped = _surrogate(spec, inputs, behaviour, mask)
    correction = correction_weights(inputs.old, behaviour, mask, spec.correction)
    losses = losses * correction
    if spec.clip_cov is not None:
        losses = losses * kept_tokens(
            inputs.logprobs, inputs.advantages, mask, clipped, spec.clip_cov, generator
        )
    loss = policy = _shared(losses, inputs.shares, inputs.weights)
    tokens = counts.sum().clamp(min=1)
    parts = {
        "policy": policy.detach(),
        "clipped": (clipped & mask).sum() / tokens,
        "weight": (correction * counts).sum() / tokens,
    }
    coefficient = _plain(spec.kl.coefficient)
    if coefficient:
        against = inputs.old if spec.kl.against == "old" else _needed(inputs.reference, "kl", "reference")
        estimate = kl_estimate(inputs.logprobs, against, spec.kl.form)
        kl = _shared(estimate, inputs.shares, inputs.kl_weights)
        loss = loss + coefficient * kl
        parts["kl"] = kl.detach()
    bonus = _plain(spec.entropy.coefficient)
    if bonus:
        entropy = _shared(_needed(inputs.entropy, "entropy", "entropy"), inputs.shares, None)
        loss = loss - bonus * entropy
        parts["entropy"] = entropy.detach()
    return loss, parts


def _surrogate(
    spec: Algorithm, inputs: LossInputs, behaviour: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The trust region's loss of each token, and where it has clipped."""
    nowhere = torch.zeros_like(mask)
    advantages = inputs.advantages.detach()
    if spec.trust.kind == "none":
        return -advantages * inputs.logprobs, nowhere
    if spec.trust.kind == "truncated":
        return truncated_loss(inputs.logprobs, behaviour, advantages, spec.trust.cap), nowhere
    of_policies = ratio(
        inputs.logprobs, inputs.old, mask, level=spec.ratio.level, mean=spec.ratio.mean, turns=inputs.turns
    )
    return clipped_loss(of_policies, advantages, spec.trust)


def _cleaned(inputs: LossInputs) -> LossInputs:
    """The same with 0 wherever the mask is 0: what stood there may be anything, NaN too."""
    mask = inputs.mask.bool()
    tensors = {field.name: getattr(inputs, field.name) for field in fields(inputs) if field.name != "mask"}
    cleaned = {name: torch.where(mask, tensor, 0) for name, tensor in tensors.items() if tensor is not None}
    return replace(inputs, mask=mask, **cleaned)


def _shared(values: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    return (values * (shares if weights is None else shares * weights)).sum()


def _plain(coefficient: float | Ramp) -> float:
    if isinstance(coefficient, Ramp):
        raise ValueError("a coefficient that changes must be fixed for the step first, with Algorithm.at")
    return coefficient


def _needed(tensor: torch.Tensor | None, part: str, name: str) -> torch.Tensor:
    if tensor is None:
        raise ValueError(f"{part}.coefficient is above 0, and the loss was given no {name}")
    return tensor

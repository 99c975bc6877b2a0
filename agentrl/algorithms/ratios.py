"""Ratios of two policies, per token, turn or sequence. Torch; all tensors ``[N, T]``."""

from __future__ import annotations

from typing import Literal

import torch

LIMIT = 20.0
"""Log-ratios are kept within this, as in verl, so that a ratio stays finite."""

Level = Literal["token", "turn", "sequence"]


def ratio(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    mask: torch.Tensor,
    *,
    level: Level = "token",
    mean: bool = False,
    turns: torch.Tensor | None = None,
) -> torch.Tensor:
    """``exp`` of the log-ratio, summed or averaged over the level; every token has that of its turn or row.

    Token: PPO. Sequence with mean: GSPO (arXiv:2507.18071, Eq. 7). Sequence or turn with sums: LOOP (for
    turns inferred from the definition; the released code has tokens and trajectories).

    Args:
        logprobs: of the policy, with its gradient.
        old: of the policy it is compared with.
        mask: 1 where a token counts.
        level: over what.
        mean: geometric mean rather than product.
        turns: index of each token's turn; needed at level turn.

    Returns:
        1 where the mask is 0.

    Raises:
        ValueError: level turn without ``turns``.
    """
    counts = mask.to(logprobs.dtype)
    delta = (logprobs - old) * counts
    if level == "turn":
        if turns is None:
            raise ValueError("a ratio per turn needs the turns of the tokens")
        delta = per_turn(delta, mask, turns, mean=mean)
    elif level == "sequence":
        total = delta.sum(-1, keepdim=True)
        if mean:
            total = total / counts.sum(-1, keepdim=True).clamp(min=1)
        delta = total.expand_as(delta)
    return torch.exp(delta.clamp(-LIMIT, LIMIT) * counts)


def per_turn(values: torch.Tensor, mask: torch.Tensor, turns: torch.Tensor, *, mean: bool) -> torch.Tensor:
    """The sum, or mean, over each token's turn in its row, at each of its tokens; 0 where the mask is 0."""
    counts = mask.to(values.dtype)
    slot = torch.where(mask.bool(), turns, 0).long()
    shape = (len(values), int(slot.max()) + 1) if slot.numel() else (len(values), 1)
    sums = values.new_zeros(shape).scatter_add(1, slot, values * counts)
    if mean:
        sums = sums / values.new_zeros(shape).scatter_add(1, slot, counts).clamp(min=1)
    return sums.gather(1, slot) * counts

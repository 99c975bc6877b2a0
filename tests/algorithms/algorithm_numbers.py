"""Small batches for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from agentrl.algorithms import Algorithm
from agentrl.algorithms.batch import Batch
from agentrl.algorithms.loss import LossInputs, policy_loss


def spec(**parts: Any) -> Algorithm:
    return Algorithm(name="test", title="", paper="", summary="", **parts)


def episodes(rewards: Sequence[float], group: Sequence[int] | None = None, **more: Any) -> Batch:
    """One row of one token per episode."""
    count = len(rewards)
    column = np.asarray(rewards, float)[:, None]
    return Batch.of(np.ones((count, 1)), column, [0] * count if group is None else list(group), **more)


def turns(lengths: Sequence[Sequence[int]], rewards: Sequence[Sequence[float]], **more: Any) -> Batch:
    """One row per episode; its turns have these lengths, and their rewards on their last tokens."""
    width = max(map(sum, lengths))
    mask = np.zeros((len(lengths), width), bool)
    reward, turn = np.zeros(mask.shape), np.full(mask.shape, -1)
    for i, (sizes, given) in enumerate(zip(lengths, rewards, strict=True)):
        ends = np.cumsum(sizes)
        mask[i, : ends[-1]] = True
        turn[i, : ends[-1]] = np.repeat(np.arange(len(sizes)), sizes)
        reward[i, ends - 1] = given
    return Batch.of(mask, reward, more.pop("groups", [0] * len(lengths)), turns=turn, **more)


def row(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor([list(values)], dtype=torch.float64)


def loss_of(
    algorithm: Algorithm,
    probabilities: Sequence[float],
    advantages: Sequence[float],
    *,
    old: Sequence[float] | None = None,
    behaviour: Sequence[float] | None = None,
    turns: Sequence[int] | None = None,
    shares: Sequence[float] | None = None,
) -> float:
    """The loss of one row of tokens, all with the same share, given as probabilities."""
    p = row(probabilities).log()
    loss, _ = policy_loss(
        algorithm,
        LossInputs(
            logprobs=p,
            old=p if old is None else row(old).log(),
            behaviour=None if behaviour is None else row(behaviour).log(),
            advantages=row(advantages),
            mask=torch.ones_like(p),
            shares=torch.full_like(p, 1 / p.shape[1]) if shares is None else row(shares),
            turns=None if turns is None else torch.tensor([list(turns)]),
        ),
    )
    return float(loss)

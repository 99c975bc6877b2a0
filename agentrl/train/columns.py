"""What an algorithm adds to a step's rows: advantages, returns, shares and weights of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from agentrl.algorithms import Algorithm
from agentrl.algorithms.advantages import compute, first_returns
from agentrl.algorithms.aggregate import token_shares
from agentrl.algorithms.batch import Batch, Tokens
from agentrl.algorithms.entropy import turn_entropy
from agentrl.algorithms.filters import high_entropy_turns, kept_episodes
from agentrl.algorithms.running import RunningPercentile
from agentrl.algorithms.scan import Floats
from agentrl.algorithms.spec import Filters
from agentrl.algorithms.weights import balanced_weights, duration_weights, sequence_probability

Grid = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Measured:
    """What else is known of a step's tokens, ``[N, T]``, and rows, ``[N]``; ``None``: no part needs it."""

    entropy: Grid | None = None
    logprobs: Grid | None = None
    seconds: Grid | None = None
    truncated: npt.NDArray[np.bool_] | None = None


def columns(
    batch: Batch,
    spec: Algorithm,
    *,
    horizon: int,
    measured: Measured | None = None,
    median: RunningPercentile | None = None,
    updates: int = 1,
) -> Mapping[str, Grid]:
    """The columns that the loss and the critic read.

    Groups are filtered first: what is dropped is in no baseline, no batch's standard deviation, and no share.
    Turns of low entropy and truncated episodes stay in baselines but have no share.

    Args:
        batch: the step's real rows.
        spec: the algorithm.
        horizon: of ``sum_norm``.
        measured: entropy, log-probs and seconds, where the algorithm needs them.
        median: groups' means so far, where the baseline is their median.
        updates: optimizer updates that the step is split into. Shares are of the whole step, times this.

    Returns:
        ``advantages``, ``returns``, ``loss_shares`` and, where the algorithm weighs samples,
        ``loss_weights`` and ``kl_weights``. ``[N, T]``
    """
    known = measured or Measured()
    batch = kept_rows(batch, spec)
    result = compute(batch, spec, median=median)
    counted = _counted(batch, spec.filters, result.advantages, known)
    found: dict[str, Grid] = {
        "advantages": result.advantages,
        "returns": result.returns,
        "loss_shares": token_shares(counted, spec.aggregation, horizon=horizon) * updates,
    }
    tokens = batch.tokens
    if spec.weights.kind == "duration":
        seconds = _needed(known.seconds, "seconds")[tokens.row, tokens.column][tokens.starts]
        found["loss_weights"] = tokens.placed(duration_weights(seconds)[tokens.turn])
    elif spec.weights.kind == "balanced":
        alpha, beta = _balanced(tokens, _needed(known.logprobs, "log-probs"))
        found["loss_weights"], found["kl_weights"] = tokens.placed(alpha), tokens.placed(beta)
    return found


def kept_rows(batch: Batch, spec: Algorithm) -> Batch:
    """The batch, with rows of groups that the filters leave out masked out."""
    tokens = batch.tokens
    kept = groups_kept(tokens, spec, spec.filters)
    if kept.all():
        return batch
    mask = batch.mask.copy()
    mask[tokens.row, tokens.column] = kept[tokens.episode]
    return replace(batch, mask=mask)


def groups_kept(tokens: Tokens, spec: Algorithm, how: Filters) -> npt.NDArray[np.bool_]:
    """Whose group the filters do not leave out. ``[E]``"""
    spread_of = first_returns(tokens, spec) if how.std_of == "first_return" else None
    return kept_episodes(tokens.episode_reward, tokens.episode_group, how, spread_of=spread_of)


def _counted(batch: Batch, how: Filters, advantages: Grid, known: Measured) -> Batch:
    """The batch with only what has a share in the loss."""
    if how.least_advantage is None and how.low_entropy_turns is None and how.truncated == "keep":
        return batch
    tokens = batch.tokens
    kept = np.ones(len(tokens.row), dtype=bool)
    if how.least_advantage is not None:
        size = np.abs(advantages[tokens.row, tokens.column])
        largest = np.zeros(len(tokens.episode_reward))
        np.maximum.at(largest, tokens.episode, size)
        kept &= (largest >= how.least_advantage)[tokens.episode]
    if how.truncated == "mask":
        kept &= ~_needed(known.truncated, "ends")[tokens.row]
    if how.low_entropy_turns is not None:
        of_turns = turn_entropy(_needed(known.entropy, "entropy"), tokens)
        kept &= high_entropy_turns(of_turns, tokens.turn_group, how.low_entropy_turns)[tokens.turn]
    mask = batch.mask.copy()
    mask[tokens.row, tokens.column] = kept
    return replace(batch, mask=mask)


def _balanced(tokens: Tokens, logprobs: Grid) -> tuple[Floats, Floats]:
    probability = sequence_probability(logprobs[tokens.row, tokens.column], tokens.episode)
    alpha, beta = balanced_weights(probability, tokens.episode_reward)
    return alpha[tokens.episode], beta[tokens.episode]


def _needed(grid: npt.NDArray[Any] | None, what: str) -> npt.NDArray[Any]:
    if grid is None:
        raise ValueError(f"the algorithm needs the tokens' {what}, and was given none")
    return grid

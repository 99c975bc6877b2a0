"""Advantages: a baseline, a scale and a level; and sums of levels.

Which baselines are biased where the policy decides when an episode ends (verl#7244): subtracting, reward by
reward, the mean of each later turn index is biased, for the number of terms depends on when the policy
stopped. Here a turn's whole return is compared, once. With ``leave_one_out``, which leaves out the whole own
episode, a turn's baseline does not depend on its action, and the gradient is unbiased at every level.
``mean`` has the own episode in the baseline: at level episode that shortens the gradient by ``1 - 1/n`` and
nothing else; at level step each turn's gradient is shortened by its own factor; at level turn the baseline
depends on how many turns the episode went on for, so it is biased. Dividing by a group's standard deviation
weighs groups anew.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agentrl.algorithms.batch import Batch, Tokens
from agentrl.algorithms.groups import (
    Ints,
    all_alike,
    dense,
    group_mean,
    group_std,
    leave_one_out_mean,
)
from agentrl.algorithms.returns import discounted, gae, segment_returns
from agentrl.algorithms.running import RunningPercentile
from agentrl.algorithms.scan import Floats
from agentrl.algorithms.spec import Advantage, Algorithm


def relative(
    values: npt.ArrayLike,
    group: npt.ArrayLike,
    how: Advantage,
    *,
    owner: npt.ArrayLike | None = None,
    median: float = 0.0,
) -> Floats:
    """Values less their baseline, over their scale.

    The mean and the one left out are of the group. What is alone in it is its own mean, so ``mean`` gives it
    0 (in verl a group of one, as others' void episodes leave it, has its whole reward for an advantage), and
    ``leave_one_out`` has nothing to subtract. The batch's standard deviation is that of the centred values
    (ScaleRL).

    Args:
        values: returns. ``[K]``
        group: what they are compared in. ``[K]``
        how: baseline (not a critic's), scale, ``ddof`` and ``epsilon``.
        owner: the episode of each, which leave_one_out leaves out as a whole; default: one each. ``[K]``
        median: the running median.
    """
    numbers, places = np.asarray(values, dtype=np.float64), dense(group)
    if how.baseline == "mean":
        centred = numbers - group_mean(numbers, places)
    elif how.baseline == "leave_one_out":
        owners = np.arange(len(numbers)) if owner is None else dense(owner)
        centred = numbers - leave_one_out_mean(numbers, places, owners)
    else:
        centred = numbers - (median if how.baseline == "median" else 0.0)
    if how.baseline in ("mean", "leave_one_out"):  # a tiny scale would make numbers of what rounding left
        centred = np.where(all_alike(numbers, places), 0.0, centred)
    return _scaled(centred, numbers, places, how)


def first_returns(tokens: Tokens, spec: Algorithm) -> Floats:
    """What each episode's first turn is worth, as the level of turns has it (UI-S1's filter). ``[E]``

    Raises:
        ValueError: no level compares turns.
    """
    of_turns = [how for _, how in spec.levels() if how.level in ("turn", "step") and how.baseline != "critic"]
    if not of_turns:
        raise ValueError("the first turn's return needs an advantage of turns that are compared")
    return _turn_returns(tokens, of_turns[-1])[np.unique(tokens.turn_episode, return_index=True)[1]]


def _turn_returns(tokens: Tokens, how: Advantage) -> Floats:
    """Each turn's discounted return. ``[K]``"""
    goes_on = tokens.turn_continues()
    if how.segments == "none":
        return discounted(tokens.turn_reward, goes_on, how.gamma)
    return segment_returns(tokens.turn_reward, tokens.turn_match, goes_on, how.gamma, how.segments)


def compute(batch: Batch, spec: Algorithm, *, median: RunningPercentile | None = None) -> Result:
    """An algorithm's advantages: the weighted sum of its levels.

    Args:
        batch: the step's rows. What the mask leaves out takes no part in any baseline.
        spec: the algorithm.
        median: groups' mean rewards so far; this step's are added first, as SPEAR's code does.

    Raises:
        ValueError: a level needs a critic's values, and the batch has none.
    """
    tokens = batch.tokens
    if median is not None:
        first = np.unique(tokens.episode_group, return_index=True)[1]
        median.add(group_mean(tokens.episode_reward, tokens.episode_group)[first])
    total = np.zeros(len(tokens.row))
    returns: Floats | None = None
    for weight, how in spec.levels():
        advantages, target = _level(tokens, how, median.value if median is not None else 0.0)
        total += weight * (_whitened(advantages) if how.whiten else advantages)
        returns = target if target is not None else returns
    return Result(tokens.placed(total), tokens.placed(total if returns is None else returns))


class Result:
    """Advantages, and what a critic is fitted to. Both ``[N, T]``, float32, 0 where nothing was sampled."""

    def __init__(self, advantages: npt.NDArray[np.float32], returns: npt.NDArray[np.float32]) -> None:
        self.advantages, self.returns = advantages, returns


def _level(tokens: Tokens, how: Advantage, median: float) -> tuple[Floats, Floats | None]:
    """One level's advantages and a critic's targets, per token. ``[S]``"""
    if how.baseline == "critic":
        return _critic_level(tokens, how)
    if how.level == "episode":
        own = np.arange(len(tokens.episode_reward))
        of_episodes = relative(tokens.episode_reward, tokens.episode_group, how, owner=own, median=median)
        return of_episodes[tokens.episode], None
    if how.level == "token":
        to_go = discounted(tokens.reward, tokens.continues(), how.gamma)
        return relative(to_go, tokens.group, how, owner=tokens.episode), None
    to_go = _turn_returns(tokens, how)
    group: Ints = dense(tokens.turn_group, tokens.turn_step) if how.level == "step" else tokens.turn_group
    return relative(to_go, group, how, owner=tokens.turn_episode)[tokens.turn], None


def _critic_level(tokens: Tokens, how: Advantage) -> tuple[Floats, Floats]:
    if tokens.turn_advantage is not None:  # this critic has targets of its own
        scaled = _scaled(tokens.turn_advantage, tokens.turn_advantage, tokens.turn_group, how)
        return scaled[tokens.turn], scaled[tokens.turn]
    if tokens.value is None:
        raise ValueError("an advantage whose baseline is a critic needs the critic's values")
    if how.level == "token":
        advantages, returns = gae(tokens.reward, tokens.value, tokens.continues(), how.gamma, how.lam)
        return _scaled(advantages, advantages, tokens.group, how), returns
    if how.level == "turn":
        at_start = tokens.value[tokens.starts]
        advantages, returns = gae(tokens.turn_reward, at_start, tokens.turn_continues(), how.gamma, how.lam)
        scaled = _scaled(advantages, advantages, tokens.turn_group, how)
        return scaled[tokens.turn], returns[tokens.turn]
    returns = np.asarray(tokens.episode_reward, dtype=np.float64)
    advantages = returns - tokens.value[tokens.episode_firsts]
    scaled = _scaled(advantages, advantages, tokens.episode_group, how)
    return scaled[tokens.episode], returns[tokens.episode]


def _scaled(centred: Floats, values: Floats, group: Ints, how: Advantage) -> Floats:
    if how.scale == "none":
        return centred
    if how.scale == "group_std":
        spread = group_std(values, group, how.ddof)
    else:
        spread = np.full_like(centred, centred.std(ddof=how.ddof) if len(centred) > how.ddof else 1.0)
    divisor = spread + how.epsilon
    return np.asarray(centred / np.where(divisor > 0, divisor, 1.0))


def _whitened(advantages: Floats) -> Floats:
    """Mean 0 and variance 1 over the batch's tokens, as verl does after GAE."""
    if len(advantages) < 2:
        return advantages
    return np.asarray((advantages - advantages.mean()) / np.sqrt(advantages.var(ddof=1) + 1e-8))

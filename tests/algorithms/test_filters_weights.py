"""Filters of groups and turns, sizes of groups, sample weights, coefficients that change."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl.algorithms import load
from agentrl.algorithms.filters import (
    high_entropy_turns,
    kept_episodes,
    std_above,
    top_by_std,
    varied,
)
from agentrl.algorithms.spec import Filters, Ramp
from agentrl.algorithms.weights import balanced_weights, duration_weights, sequence_probability

GROUPS = [0, 0, 1, 1, 2, 2, 3, 3]
REWARDS = [0, 1, 1, 1, 0, 0.5, 0.2, 0.3]


def test_groups_that_are_all_alike_are_dropped() -> None:
    assert varied(REWARDS, GROUPS).tolist() == [True, True, False, False, True, True, True, True]
    assert varied([0.1 + 0.2, 0.3], [0, 0]).tolist() == [False, False]  # alike but for rounding
    assert varied([1.0], [0]).tolist() == [False]


def test_spread_thresholds_say_which_deviation_they_mean() -> None:
    # ddof 0: .5, 0, .25, .05; ddof 1: .7071, 0, .3536, .0707
    assert std_above(REWARDS, GROUPS, 0.3, ddof=0)[::2].tolist() == [True, False, False, False]
    assert std_above(REWARDS, GROUPS, 0.3, ddof=1)[::2].tolist() == [True, False, True, False]


def test_the_groups_that_differ_most_are_kept() -> None:
    assert top_by_std(REWARDS, GROUPS, 0.75)[::2].tolist() == [True, False, True, True]
    assert top_by_std(REWARDS, GROUPS, 0.01)[::2].tolist() == [True, False, False, False]


def test_filters_are_taken_one_after_the_other() -> None:
    how = Filters(zero_variance="drop", top_share=0.67)
    assert kept_episodes(REWARDS, GROUPS, how)[::2].tolist() == [True, False, True, False]
    assert kept_episodes([1, 1], [0, 0], how).tolist() == [False, False]
    assert kept_episodes(REWARDS, GROUPS, Filters()).all()


def test_darts_turns_of_high_entropy() -> None:
    entropy = [0.1, 0.5, 0.3, 0.9, 0.7]  # the 20th percentile is .26
    assert high_entropy_turns(entropy, np.zeros(5)).tolist() == [False, True, True, True, True]
    mixed = high_entropy_turns([0.1, 9, 0.5, 8, 0.3, 0.9, 7, 0.7], [0, 1, 0, 1, 0, 0, 1, 0])
    assert mixed.tolist() == [False, True, True, True, True, True, False, True]
    assert high_entropy_turns([], []).tolist() == []


def test_durations() -> None:
    weights = duration_weights([1, 1, 10, 4])
    assert weights.tolist() == [0.25, 0.25, 2.5, 1]
    assert (weights * [0.5, -0.5, 1, -1]).tolist() == [0.125, -0.125, 2.5, -1]
    assert duration_weights([0, 0]).tolist() == [1, 1]


def test_duration_weights_undo_how_seldom_slow_actions_are() -> None:
    """In 100 units of each policy's time, an action of 1 happens 50 times and one of 10 five times."""
    seconds = np.array([1.0] * 50 + [10.0] * 5)
    mass = duration_weights(seconds)
    assert mass[:50].sum() == pytest.approx(mass[50:].sum())


def test_verirls_weights() -> None:
    alpha, beta = balanced_weights([0.2, 0.4, 0.6], [0.9, 0.3, 0.3])
    assert alpha.tolist() == pytest.approx([1.8, 1, 1.5])
    assert beta.tolist() == pytest.approx([0.5, 0.6, 0.6])
    alpha, beta = balanced_weights([0.5, 0.5], [-1.0, 1.0])
    assert (beta >= 0).all() and alpha.tolist() == [1, 2]
    assert balanced_weights([0.5, 0.5], [0.0, 0.0])[0].tolist() == [1, 1]


def test_a_sequences_probability_does_not_depend_on_its_length() -> None:
    logp = np.log([0.5, 0.5, 0.2, 0.2, 0.2])
    assert sequence_probability(logp, np.array([0, 0, 1, 1, 1])) == pytest.approx([0.5, 0.2])


def test_spears_schedules() -> None:
    gamma = Ramp(start=0, end=1, until=200, shape="cosine")
    assert [gamma.at(t) for t in (0, 50, 100, 200, 300)] == pytest.approx([0, 0.146447, 0.5, 1, 1], abs=1e-6)
    tools = Ramp(start=1, end=0, until=200, shape="cosine")
    rewards = [min(0.1 * calls, 1.0) * tools.at(50) for calls in (0, 3, 12)]
    assert rewards == pytest.approx([0, 0.256066, 0.853553], abs=1e-6)
    assert tools.at(200) == 0


def test_any_coefficient_may_change_while_training() -> None:
    ramp = {"start": 0.1, "end": 0.0, "since": 2, "until": 4}
    algorithm = load("grpo", {"kl": {"coefficient": ramp}, "entropy": {"coefficient": 0.01}})
    assert [algorithm.at(step).kl.coefficient for step in (0, 2, 3, 4, 9)] == pytest.approx(
        [0.1, 0.1, 0.05, 0, 0]
    )
    assert algorithm.at(3).entropy.coefficient == 0.01

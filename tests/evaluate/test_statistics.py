"""Intervals and pass@k against numbers worked by hand or taken from the literature."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.evaluate import pass_at_k, success_interval, wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_newcombes_examples(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_mirrors_and_is_exact_at_its_ends() -> None:
    low, high = wilson_interval(3, 40)
    assert wilson_interval(37, 40) == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_narrows_with_less_confidence() -> None:
    wide, narrow = wilson_interval(20, 50, 0.99), wilson_interval(20, 50, 0.5)
    assert wide[0] < narrow[0] < 0.4 < narrow[1] < wide[1]


@pytest.mark.parametrize(("successes", "trials", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0)])
def test_wilson_refuses_what_is_no_rate(successes: int, trials: int, confidence: float) -> None:
    with pytest.raises(ValueError):
        wilson_interval(successes, trials, confidence)


def test_wilson_holds_the_true_rate_as_often_as_it_says_on_average() -> None:
    """Exact coverage, averaged over rates: near the nominal 95% (Brown, Cai and DasGupta 2001)."""
    trials, rates = 60, [index / 200 for index in range(1, 200)]
    intervals = [wilson_interval(k, trials) for k in range(trials + 1)]
    held = sum(
        math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k)
        for rate in rates
        for k, (low, high) in enumerate(intervals)
        if low <= rate <= high
    )
    assert held / len(rates) == pytest.approx(0.95, abs=0.005)


def test_one_episode_per_task_is_plain_wilson() -> None:
    groups = [[True]] * 30 + [[False]] * 10
    assert success_interval(groups) == pytest.approx(wilson_interval(30, 40))


def test_episodes_that_repeat_their_task_count_for_one() -> None:
    """Four copies of each outcome say no more than one of them."""
    copies = [[True] * 4] * 15 + [[False] * 4] * 25
    assert success_interval(copies) == pytest.approx(wilson_interval(15, 40), abs=0.01)


def test_episodes_that_ignore_their_task_count_in_full() -> None:
    alternating = [[True, False, True, False]] * 40
    assert success_interval(alternating) == pytest.approx(wilson_interval(80, 160))


def test_tasks_that_are_all_solved_count_once_each() -> None:
    assert success_interval([[True] * 8] * 10) == pytest.approx(wilson_interval(10, 10))
    assert success_interval([]) == (0.0, 1.0)


@given(st.lists(st.lists(st.booleans(), max_size=5), max_size=12))
def test_the_interval_always_holds_the_measured_rate(groups: list[list[bool]]) -> None:
    low, high = success_interval(groups)
    flat = list(itertools.chain.from_iterable(groups))
    assert 0 <= low <= high <= 1
    if flat:
        assert low - 1e-9 <= sum(flat) / len(flat) <= high + 1e-9


@pytest.mark.parametrize(
    ("samples", "correct", "k", "expected"),
    [
        (5, 2, 1, 0.4),
        (5, 2, 2, 0.7),
        (5, 2, 4, 1.0),
        (10, 3, 5, 1 - 21 / 252),
        (4, 0, 4, 0.0),
        (4, 4, 1, 1.0),
    ],
)
def test_pass_at_k_on_worked_numbers(samples: int, correct: int, k: int, expected: float) -> None:
    assert pass_at_k(samples, correct, k) == pytest.approx(expected)


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(samples: int, data: st.DataObject) -> None:
    correct, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    subsets = list(itertools.combinations([i < correct for i in range(samples)], k))
    assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_does_not_overflow_where_factorials_would() -> None:
    assert pass_at_k(2000, 1, 1000) == pytest.approx(0.5)


@pytest.mark.parametrize(("samples", "correct", "k"), [(3, 4, 1), (3, 1, 4), (3, 1, 0), (0, 0, 1)])
def test_pass_at_k_refuses_what_cannot_be_estimated(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError):
        pass_at_k(samples, correct, k)

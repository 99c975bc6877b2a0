"""Scans, discounted and patched returns, GAE, ArCHer's targets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.algorithms.returns import discounted, gae, segment_returns
from agentrl.algorithms.scan import reverse_scan


@given(st.lists(st.tuples(st.floats(-9, 9), st.sampled_from([0.0, 0.5, 0.9, 1.0])), max_size=70))
def test_a_scan_is_the_loop_it_replaces(pairs: list[tuple[float, float]]) -> None:
    values, decay = [p[0] for p in pairs], [p[1] for p in pairs]
    expected, following = [0.0] * len(pairs), 0.0
    for t in reversed(range(len(pairs))):
        expected[t] = following = values[t] + decay[t] * following
    assert reverse_scan(values, decay) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_ui_s1_returns_in_both_forms() -> None:
    rewards, match, goes_on = [1, 1, 0.5, 1], [True, True, False, True], [1, 1, 1, 0]
    assert segment_returns(rewards, match, goes_on, 0.5, "paper").tolist() == [1.625, 1.25, 0.5, 1]
    assert segment_returns(rewards, match, goes_on, 0.5, "code").tolist() == [1.5, 1, 0.5, 1]


def test_returns_end_with_the_episode() -> None:
    assert discounted([1, 1, 1, 1], [1, 0, 1, 0], 0.5).tolist() == [1.5, 1, 1.5, 1]


def test_gae_with_lambda_1_is_the_return_less_the_value_and_with_0_the_td_error() -> None:
    rewards, values, goes_on = [0.5, 0, 2, 1], [1, 2, 3, 4], [1, 1, 0, 0]
    advantages, returns = gae(rewards, values, goes_on, gamma=0.9, lam=1)
    assert returns == pytest.approx(discounted(rewards, goes_on, 0.9))
    assert advantages == pytest.approx(returns - np.array(values))
    advantages, _ = gae(rewards, values, goes_on, gamma=0.9, lam=0)
    assert advantages == pytest.approx([0.5 + 0.9 * 2 - 1, 0.9 * 3 - 2, 2 - 3, 1 - 4])

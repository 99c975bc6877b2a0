"""Shares of tokens in the loss."""

from __future__ import annotations

import numpy as np
import pytest
from algorithm_numbers import turns
from hypothesis import given
from hypothesis import strategies as st

from agentrl.algorithms import load
from agentrl.algorithms.aggregate import token_shares
from agentrl.algorithms.batch import Batch
from agentrl.algorithms.spec import Aggregation

WEBAGENT = turns([[3, 1], [2]], [[0, 0], [0]])
VALUES = np.array([[1, 1, 1, 4], [-2, 0, 0, 0]])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("action", 0.75),
        ("token", 0.833333),
        ("sequence", 0.375),
        ("sequence_sum", 2.5),
        ("sum_norm", 0.25),
        ("turn", 4 / 3),
        ("turn_sum", 5 / 3),
    ],
)
def test_webagents_example(kind: str, expected: float) -> None:
    """Losses of tokens: the worked numbers are those of the objective, its negative."""
    shares = token_shares(WEBAGENT, Aggregation.model_validate({"kind": kind, "horizon": 10}))
    assert (shares * VALUES).sum() == pytest.approx(expected, abs=1e-6)


def test_scalerls_example() -> None:
    advantages = np.array([1.069045, -1.069045, -1.069045, 1.069045] + [-0.534522] * 3 + [1.603567])
    lengths = [[2], [4], [2], [2], [10], [10], [10], [20]]
    batch = turns(lengths, [[0]] * 8, groups=[0] * 4 + [1] * 4)
    values = advantages[:, None] * batch.mask
    expected = {"prompt": 0.053452, "token": 0.231626, "sequence": 0.0}
    for kind, mean in expected.items():
        shares = token_shares(batch, Aggregation.model_validate({"kind": kind}))
        assert (shares * values).sum() == pytest.approx(mean, abs=1e-6)


def test_an_episode_of_several_rows_counts_once_where_episodes_are_alike() -> None:
    batch = Batch.of(
        [[1, 1], [1, 0], [1, 1]], np.zeros((3, 2)), [0, 0, 0], episodes=[5, 5, 6], order=[0, 1, 0]
    )
    assert token_shares(batch, Aggregation(kind="episode")).sum(1) == pytest.approx([1 / 3, 1 / 6, 1 / 2])
    assert token_shares(batch, Aggregation(kind="sequence")).sum(1) == pytest.approx([1 / 3] * 3)


def test_a_horizon_is_needed() -> None:
    with pytest.raises(ValueError, match="none is set"):
        token_shares(WEBAGENT, load("dr_grpo").aggregation)
    assert token_shares(WEBAGENT, load("dr_grpo").aggregation, horizon=10)[0, 0] == pytest.approx(0.05)


KINDS = st.sampled_from(["token", "sequence", "episode", "prompt", "turn", "action"])


@given(
    KINDS, st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=5), st.data()
)
def test_shares_of_means_sum_to_one_and_rows_that_do_not_count_have_none(
    kind: str, lengths: list[list[int]], data: st.DataObject
) -> None:
    batch = turns(lengths, [[0] * len(sizes) for sizes in lengths], groups=range(len(lengths)))
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))))
    batch = Batch.of(batch.mask & kept[:, None], batch.rewards, batch.groups, turns=batch.turns)
    shares = token_shares(batch, Aggregation.model_validate({"kind": kind}))
    assert shares.sum() == pytest.approx(1.0 if kept.any() else 0.0, abs=1e-5)
    assert not shares[~batch.mask].any()

"""Advantages by baseline, scale and level: worked numbers and invariances."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from algorithm_numbers import episodes, spec, turns
from hypothesis import given
from hypothesis import strategies as st

from agentrl.algorithms import load
from agentrl.algorithms.advantages import compute, relative
from agentrl.algorithms.batch import Batch
from agentrl.algorithms.running import RunningPercentile
from agentrl.algorithms.spec import Advantage, Algorithm


def of(algorithm: Algorithm, batch: Batch) -> list[float]:
    """One advantage per row: that of its first token."""
    return [float(x) for x in compute(batch, algorithm).advantages[:, 0]]


@pytest.mark.parametrize(
    ("name", "changes", "rewards", "expected"),
    [
        ("grpo", {}, [1, 0, 0, 1], [0.866024, -0.866024, -0.866024, 0.866024]),
        ("grpo", {}, [1, 0, 0, 0], [1.499997, -0.499999, -0.499999, -0.499999]),
        ("llamarl", {}, [1, 0, 0, 1], [0.5, -0.5, -0.5, 0.5]),
        ("dr_grpo", {}, [1, 0, 0, 1], [0.5, -0.5, -0.5, 0.5]),
        ("trpo_traj", {}, [1, 0, 0, -0.5], [1.390757, -0.19868, -0.19868, -0.993398]),
        ("trpo_traj", {"ddof": 0}, [1, 0, 0, -0.5], [1.605907, -0.229415, -0.229415, -1.147077]),
        ("trpo_traj", {"ddof": 0}, [1, 0, 0, 0], [1.732047, -0.577349, -0.577349, -0.577349]),
        ("grpo", {}, [1] + [0] * 7, [2.474867] + [-0.353552] * 7),  # DART's pool of failures and one success
        ("webagent_r1", {}, [1, 0, 0, 0, 1], [1.095245, -0.730163, -0.730163, -0.730163, 1.095245]),
        ("sapo_swarm", {}, [1, 1, 1, 0], [0.499999, 0.499999, 0.499999, -1.499997]),
        ("sapo_swarm", {}, [1, 1, 1, 1], [0, 0, 0, 0]),
        ("loop", {}, [1, 0.5, 0, 0, 0, 0.5], [0.8, 0.2, -0.4, -0.4, -0.4, 0.2]),
        ("rloo", {}, [1, 0, 0.5], [0.75, -0.75, 0]),  # SPA-RL's leave-one-out mode
        ("spo", {}, [0.75, 0.45, 0.30], [0.25, -0.05, -0.20]),
        ("spo", {}, [0.5, 0.5, 0.5], [0, 0, 0]),
    ],
)
def test_worked_numbers(
    name: str, changes: dict[str, int], rewards: list[float], expected: list[float]
) -> None:
    algorithm = load(name, {"advantage": changes})
    assert of(algorithm, episodes(rewards)) == pytest.approx(expected, abs=2e-6)


def test_scalerl_scales_over_the_batch_after_groups_without_variance_are_dropped() -> None:
    from agentrl.train.columns import kept_rows

    algorithm = load("scalerl")
    rewards, group = [1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 1], [0] * 4 + [1] * 4 + [2] * 4
    batch = kept_rows(episodes(rewards, group), algorithm)
    assert of(algorithm, batch) == pytest.approx(
        [0] * 4 + [1.069045, -1.069045, -1.069045, 1.069045] + [-0.534522] * 3 + [1.603567], abs=1e-6
    )


def test_spears_running_median_is_of_group_means() -> None:
    median = RunningPercentile()
    median.add([0.2, 0.5, 0.5, 0.75, 1])
    assert median.value == 0.5
    how = Advantage(baseline="median")
    centred = relative([1, 0.4, 0.6, 0], np.arange(4), how, median=median.value)
    assert centred == pytest.approx([0.5, -0.1, 0.1, -0.5])
    assert list(np.flatnonzero(centred > 0)) == [0, 2]


def test_the_median_forgets_what_lies_outside_its_window() -> None:
    median = RunningPercentile(window=2)
    median.add([5, 1, 3])
    assert median.value == 2
    batch = episodes([1, 0, 1, 1], [0, 0, 1, 1])
    seen = RunningPercentile()
    result = compute(batch, spec(advantage={"baseline": "median"}), median=seen)
    assert seen.value == 0.75  # of the means 0.5 and 1
    assert result.advantages[:, 0] == pytest.approx([0.25, -0.75, 0.25, 0.25])


def test_ui_s1_adds_the_advantage_of_a_step_to_that_of_the_episode() -> None:
    """Four episodes whose first steps return 1.75, 1, .55, .55 and whose total returns are 1, 0, 0, 1."""
    how = load("ui_s1").levels()[1][1]
    steps = relative([1.75, 1, 0.55, 0.55], np.zeros(4), how)
    assert steps == pytest.approx([1.390757, 0.066227, -0.728492, -0.728492], abs=2e-6)
    whole = relative([1, 0, 0, 1], np.zeros(4), load("ui_s1").advantage)
    assert whole + steps == pytest.approx([2.25678, -0.799797, -1.594515, 0.137532], abs=2e-6)


def test_levels_are_summed_and_only_tokens_of_the_turn_get_its_part() -> None:
    algorithm = spec(
        advantage={"level": "episode", "baseline": "mean"},
        second_advantage={"level": "step", "baseline": "mean", "weight": 2.0, "gamma": 0.5},
    )
    batch = turns([[1, 2], [1]], [[1.0, 1.0], [0.5]])
    # episodes: 2 and .5, mean 1.25; first steps return 1.5 and .5, mean 1; the second step is alone: 0
    assert compute(batch, algorithm).advantages.tolist() == [
        [0.75 + 2 * 0.5, 0.75, 0.75],
        [-0.75 - 2 * 0.5, 0, 0],
    ]


def test_a_level_of_turns_compares_all_turns_of_the_group() -> None:
    algorithm = spec(advantage={"level": "turn", "baseline": "leave_one_out"})
    batch = turns([[1, 1], [1], [1]], [[0, 1], [0], [2]])
    # the others of the first episode's turns are those of the other episodes: 0 and 2, mean 1
    advantages = compute(batch, algorithm).advantages
    assert advantages[0].tolist() == [0, 0]
    assert advantages[1, 0] == pytest.approx(0 - (1 + 1 + 2) / 3)
    assert advantages[2, 0] == pytest.approx(2 - (1 + 1 + 0) / 3)


def test_an_episode_in_several_rows_is_one_episode() -> None:
    one = turns([[2, 1], [1]], [[0.25, 0.75], [0]])
    split = Batch.of(
        mask=[[1, 1, 0], [1, 0, 0], [0, 1, 0]],
        rewards=np.array([[0, 0.25, 9], [0.75, 9, 9], [9, 0, 9]]),
        groups=[0, 0, 0],
        turns=[[0, 0, -1], [1, -1, -1], [-1, 0, -1]],
        episodes=[7, 7, 3],
        order=[0, 1, 0],
    )
    for name in ("grpo", "rloo", "dart"):
        whole, parts = compute(one, load(name)).advantages, compute(split, load(name)).advantages
        assert [*parts[0, :2], parts[1, 0], parts[2, 1]] == pytest.approx([*whole[0], whole[1, 0]])


def test_a_critic_level_needs_values_and_writes_returns() -> None:
    algorithm = load("ppo", {"advantage": {"whiten": False}})
    with pytest.raises(ValueError, match="needs the critic's values"):
        compute(episodes([1.0]), algorithm)
    batch = turns([[1, 1], [1]], [[0, 1], [2]], values=np.full((2, 2), 0.5))
    result = compute(batch, algorithm)
    assert result.returns.tolist() == [[1, 1], [2, 0]]
    assert result.advantages.tolist() == [[0.5, 0.5], [1.5, 0]]


ALL = [
    spec(advantage={"level": level, "baseline": baseline, "scale": scale, "gamma": 0.9})
    for level in ("episode", "turn", "step", "token")
    for baseline in ("none", "mean", "leave_one_out")
    for scale in ("none", "group_std", "batch_std")
]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Up to five episodes of up to three turns each, with observations between, in up to two groups."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    rows = draw(st.integers(1, 5))
    mask, turn = np.zeros((rows, 12), bool), np.full((rows, 12), -1)
    for i in range(rows):
        for t in range(rng.integers(1, 4)):
            start, length = 4 * t, rng.integers(1, 4)
            mask[i, start : start + length], turn[i, start : start + length] = True, t
    return Batch.of(mask, rng.integers(-2, 3, mask.shape) / 2 * mask, rng.integers(0, 2, rows), turns=turn)


@given(batches(), st.sampled_from(ALL), st.randoms(use_true_random=False))
def test_order_padding_and_masked_tokens_change_nothing(
    batch: Batch, algorithm: Algorithm, random: Random
) -> None:
    expected = compute(batch, algorithm).advantages
    order = list(range(len(batch.groups)))
    random.shuffle(order)
    grid = [np.pad(np.asarray(x)[order], ((0, 0), (3, 5))) for x in (batch.mask, batch.rewards, batch.turns)]
    noise = np.where(grid[0], grid[1], 77.0)  # rewards on tokens that do not count
    again = Batch.of(
        grid[0], noise, np.asarray(batch.groups)[order], turns=grid[2], episodes=[9 - i for i in order]
    )
    advantages = compute(again, algorithm).advantages
    assert advantages[:, 3:-5] == pytest.approx(expected[order], abs=1e-5)
    assert not advantages[~grid[0]].any()


@given(batches())
def test_a_shift_of_all_rewards_of_a_group_changes_nothing_between_episodes(batch: Batch) -> None:
    ends = np.zeros_like(batch.rewards)
    last = batch.mask.shape[1] - 1 - batch.mask[:, ::-1].argmax(1)
    ends[np.arange(len(last)), last] = 3.0
    shifted = Batch.of(batch.mask, batch.rewards + ends, batch.groups, turns=batch.turns)
    sizes = np.bincount(np.asarray(batch.groups))[np.asarray(batch.groups)]
    compared = sizes > 1
    for name in ("grpo", "dr_grpo", "rloo"):
        before, after = compute(batch, load(name)).advantages, compute(shifted, load(name)).advantages
        assert after[compared] == pytest.approx(before[compared], abs=1e-4)

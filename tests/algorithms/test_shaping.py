"""Reward shapings against the worked numbers of their papers, and what must hold of them always."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.algorithms.exploration import base_reward, explored
from agentrl.algorithms.gates import Level, accumulated, gated
from agentrl.algorithms.partial_credit import credit, hits
from agentrl.algorithms.potential import shaping
from agentrl.algorithms.preference import pairs, win_rates
from agentrl.algorithms.tool_schedule import imitation_weight, tool_bonus, tool_reward
from agentrl.algorithms.tree import Node, preference_pairs, rescored
from agentrl.errors import DefinitionError
from agentrl.reward import reward
from agentrl.task import Task
from agentrl.trajectory import Trajectory

numbers = st.floats(-10, 10)


@pytest.mark.parametrize(
    ("outcome", "steps", "comparator", "total"),
    [(1, [0.1, 0.2], ">=", 1.3), (-1, [0.1, 0.2, 0.5], ">=", -1), (0, [0.1], ">=", 0.1), (0, [0.1], ">", 0)],
)
def test_gated_accumulation(outcome, steps, comparator, total) -> None:
    levels = [Level([outcome], 0.0, comparator), Level(steps)]
    assert accumulated(levels) == pytest.approx(total)

    @reward
    def high(episode):
        return outcome

    @reward
    def low(episode):
        return sum(steps)

    episode = Trajectory(Task("t"), "e")
    episode.rewards = {"high": outcome, "low": sum(steps)}
    amount = gated(high, low, threshold=0.0, comparator=comparator).amount(episode)
    assert amount is not None and amount.total() == pytest.approx(total)


def test_a_closed_gate_closes_all_below() -> None:
    assert accumulated([Level([1]), Level([-0.5]), Level([7])]) == 0.5


def test_spear_schedules() -> None:
    weights = [imitation_weight(t) for t in (0, 50, 100, 200, 300)]
    assert weights == pytest.approx([0, 0.146447, 0.5, 1, 1], abs=1e-6)
    rewards = [tool_reward(calls, 50) for calls in (0, 3, 12)]
    assert rewards == pytest.approx([0, 0.256066, 0.853553], abs=1e-6)
    assert tool_reward(12, 200) == tool_reward(12, 1000) == 0


@given(st.floats(0, 1), st.integers(0, 20))
def test_tool_bonus_is_the_tool_reward_over_progress(progress, calls) -> None:
    episode = Trajectory(Task("t"), "e", progress=progress)
    episode.rewards = {"tool_bonus": tool_reward(calls, 0)}
    amount = tool_bonus().amount(episode)
    assert amount is not None and amount.total() == pytest.approx(
        tool_reward(calls, progress * 200), abs=1e-12
    )


def test_partial_credit() -> None:
    marks = ["loaded data", r"built model", r"epoch \d+", "submitted"]
    assert hits("loaded data\nbuilt model\nepoch 1\nepoch 2\n", marks) == 3
    assert credit(3, None) == pytest.approx(-9.7)
    assert credit(3, 0.8) == 0.8
    assert credit(0, 0.124, lower_is_better=True) == -0.124
    with pytest.raises(DefinitionError):
        hits("", ["("])


def test_exploration_reward() -> None:
    assert explored(base_reward(True, 2000, constant=1000), 0.75) == pytest.approx(0.55)
    assert explored(base_reward(False, 2000, constant=1000), 0.75) == pytest.approx(-0.25)
    assert explored(base_reward(None, 500, constant=1000), 0.5) == pytest.approx(-1.9)
    grades = [(True, 0.75), (False, 0.75), (None, 0.5)]
    assert [explored(base_reward(c, 9, constant=0), g) for c, g in grades] == pytest.approx(
        [0.95, 0.15, -0.3]
    )
    assert base_reward(True, 0, constant=1000) == -9  # no length: the cap, not a division by 0
    assert explored(1.0, None) == explored(1.0, 0.5)


@given(st.lists(numbers, min_size=1, max_size=20), st.floats(0, 1))
def test_shaping_telescopes(potentials, discount) -> None:
    shaped = shaping(potentials, discount=discount)
    steps = len(potentials) - 1
    total = sum(discount**t * value for t, value in enumerate(shaped))
    assert total == pytest.approx(discount**steps * potentials[-1] - potentials[0], abs=1e-6)


def test_win_rates() -> None:
    table = np.array([[0.5, 0.9, 0.6], [0.1, 0.5, 0.8], [0.4, 0.2, 0.5]])
    assert win_rates(table) == pytest.approx([0.75, 0.45, 0.30])
    rock_paper_scissors = np.array([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]])
    assert win_rates(rock_paper_scissors) == pytest.approx([0.5, 0.5, 0.5])
    with pytest.raises(DefinitionError):
        win_rates(np.ones((2, 2)))


@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 9))
def test_sub_tournaments_are_even(members, opponents, seed) -> None:
    chosen = pairs(members, opponents, Random(seed))
    met = [sum(member in pair for pair in chosen) for member in range(members)]
    assert len(set(chosen)) == len(chosen)
    assert len(set(met)) == 1 and met[0] >= min(opponents, members - 1)


def test_trace_back_rescoring() -> None:
    nodes = [Node("root", 0.1), Node("a", 0.1, "root"), Node("b", 0.9, "root")]
    nodes += [Node("a1", 1.0, "a"), Node("a2", 0.6, "a")]
    scores = rescored(nodes)
    assert scores["a"] == pytest.approx(0.8) and scores["root"] == pytest.approx(0.85)
    assert rescored(nodes[::-1]) == pytest.approx(scores)
    table = {"1": 1.0, ".85": 0.85, ".5": 0.5, ".3": 0.3, "0": 0.0}
    assert preference_pairs(table) == [("1", ".5"), ("1", ".3"), (".85", ".3")]


@pytest.mark.parametrize(
    "nodes",
    [[Node("a", 0, "b"), Node("b", 0, "a")], [Node("a", 0, "x")], [Node("a", 0), Node("a", 1)]],
)
def test_what_is_no_tree_is_refused(nodes) -> None:
    with pytest.raises(DefinitionError):
        rescored(nodes)

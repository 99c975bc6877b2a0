"""Rewards: components, weights and positions, and values that cannot be trained on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from agentrl import (
    DefinitionError,
    SandboxUnavailable,
    SessionLost,
    Task,
    Trajectory,
    Turn,
    UsageError,
    reward,
)
from agentrl.errors import UserCodeError
from agentrl.scoring import score_episode


def episode(turns: int = 2) -> Trajectory:
    return Trajectory(
        Task("?", id="t9"), "e", turns=[Turn(i, 0, i, i + 1, text=f"turn {i}") for i in range(turns)]
    )


async def test_components_are_weighed_summed_and_kept_by_name() -> None:
    @reward(weight=2.0)
    def right(episode: Trajectory) -> float:
        return 0.5

    @reward(weight=0.0, name="seen")
    async def only_logged(episode: Trajectory) -> bool:
        return True

    @reward(weight=-0.25, per="turn")
    def words(episode: Trajectory, turn: Turn) -> int:
        return turn.index + 1

    @reward(per="turn")
    async def spoke(episode: Trajectory, turn: Turn) -> bool:
        return turn.index == 1

    judged = episode()
    await score_episode(judged, [right, only_logged, words, spoke])
    assert judged.rewards == {"right": 0.5, "seen": 1.0}
    assert [turn.rewards for turn in judged.turns] == [
        {"words": 1.0, "spoke": 0.0},
        {"words": 2.0, "spoke": 1.0},
    ]
    assert judged.turn_reward == {0: -0.25, 1: 0.5}
    assert (judged.episode_reward, judged.reward) == (1.0, 1.25)


async def test_without_components_the_reward_is_zero() -> None:
    judged = episode()
    await score_episode(judged, [])
    assert (judged.reward, judged.rewards, judged.turn_reward) == (0.0, {}, {})


@pytest.mark.parametrize("value", [1, True, 0.5, np.float64(0.25), -3])
async def test_numbers_are_rewards(value: Any) -> None:
    judged = episode()
    await score_episode(judged, [reward(lambda episode: value)])
    assert judged.reward == float(value) and type(judged.reward) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "1", [1.0], 10**400, 1j])
async def test_what_is_no_finite_number_is_named(value: Any) -> None:
    def odd(episode: Trajectory) -> Any:
        return value

    with pytest.raises(UserCodeError, match=r"Reward 'odd' returned .*finite number \(task t9\)"):
        await score_episode(episode(), [reward(odd)])


async def test_what_a_reward_raises_is_named_with_its_task() -> None:
    @reward
    def broken(episode: Trajectory) -> float:
        raise KeyError("answer")

    with pytest.raises(
        UserCodeError, match=r"Reward 'broken' raised KeyError: 'answer' \(task t9\)"
    ) as caught:
        await score_episode(episode(), [broken])
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("problem", [SessionLost("gone"), SandboxUnavailable("none")])
async def test_errors_of_our_tree_keep_their_meaning(problem: Exception) -> None:
    @reward
    async def broken(episode: Trajectory) -> float:
        raise problem

    with pytest.raises(type(problem)) as caught:
        await score_episode(episode(), [broken])
    assert caught.value is problem


def test_a_reward_is_per_episode_or_per_turn() -> None:
    with pytest.raises(DefinitionError, match="not 'token'"):
        reward(per="token")(lambda episode: 0.0)  # type: ignore[call-overload]
    assert issubclass(DefinitionError, UsageError)


def test_a_component_stays_callable() -> None:
    @reward(weight=3)
    def length(episode: Trajectory) -> float:
        """How long."""
        return len(episode.turns)

    assert length(episode(4)) == 4 and length.__doc__ == "How long."

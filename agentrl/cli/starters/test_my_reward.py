"""Tests of my_reward; run them with pytest."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentrl import Call, Reward, Task, Trajectory, Turn
from agentrl.registry import find

my_reward: Reward = find(str(Path(__file__).with_name("my_reward.py")), "agentrl.rewards", Reward)


def score(text: str, calls: int = 0) -> float:
    """The reward of an episode that ends with this text, as a run asks for it."""
    made = [Call("look", {}, f"call-{number}") for number in range(calls)]
    turn = Turn(index=0, segment=0, start=0, end=0, text=text, calls=made)
    return asyncio.run(my_reward.score(Trajectory(Task("How many?", answer="42"), "episode", turns=[turn])))


@pytest.mark.parametrize(
    ("text", "calls", "reward"), [("42", 1, 1.0), ("It is 42.0.", 3, 1.0), ("42", 4, 0.5), ("41", 1, 0.0)]
)
def test_what_is_paid(text: str, calls: int, reward: float) -> None:
    assert score(text, calls) == reward


@pytest.mark.parametrize("text", ["", "no number", "41 42 43", "4" * 10_000, "\\boxed{", "answer: 4 2"])
def test_what_is_not(text: str) -> None:
    assert score(text) == 0.0

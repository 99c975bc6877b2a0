"""Credit for what programs printed: worked numbers through episodes' judgement and the trainer's step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from replay_support import lab
from shaping_support import Shop, episode, judged, step

from agentrl import NoVerdict, Observation, Trajectory, Turn, reward
from agentrl.config import load_config
from agentrl.errors import ConfigError
from agentrl.train.algorithm import plan
from agentrl.train.shaping import shape_of

NAME = "algorithm.name=mle_duration"
OPTIONS = "algorithm.shaping.options"


def program(*printed: str, score: float = 0.0, **more: Any) -> Trajectory:
    """An episode with a call of ``look`` per output."""
    one = episode(score, [0.0] * len(printed), calls=len(printed), **more)
    for call, text in zip(one.calls, printed, strict=True):
        call.observation = Observation(text)
    return one


def test_a_program_without_a_submission_earns_its_marks_and_a_valid_one_its_score_alone() -> None:
    printed = ("Imported packages\nloaded data\n", "loaded data again\nTraining loss 0.4")
    crashed = program(*printed, status="truncated", reason="a limit")
    valid = program(*printed, score=0.8)
    assert judged([crashed, valid], NAME) == pytest.approx([-9.7, 0.8])
    assert [one.rewards["marks"] for one in (crashed, valid)] == [3, 3]
    assert crashed.unshaped == 0 and valid.unshaped == pytest.approx(0.8)
    lower = [NAME, f"{OPTIONS}.better=lower"]
    assert judged([program("x", score=0.124)], *lower) == [pytest.approx(-0.124)]


def test_marks_are_ones_own_and_of_the_output_of_the_tools_named() -> None:
    words = [
        NAME,
        f"{OPTIONS}.marks=['epoch \\d+', '(?i)done']",
        f"{OPTIONS}.per_hit=1",
        f"{OPTIONS}.crash=0",
    ]
    one = program("epoch 7\nepoch 8", "DONE", status="truncated")
    assert judged([one], *words) == [2]
    one.calls[1].name = "write"
    assert judged([one], *words, f"{OPTIONS}.tools=[look]") == [1]


class Contest(Shop):
    """A grader that gives nothing to what it cannot read, and a check of the form."""

    success = "outcome"

    @reward(no_verdict="leave out")
    def grade(self, episode: Trajectory) -> float:
        if episode.task.metadata["outcome"] < 0:
            raise NoVerdict("not readable")
        return 0.5

    @reward(weight=0)
    def readable(self, episode: Trajectory) -> float:
        return float(episode.task.metadata["outcome"] > 1)


def test_what_is_a_valid_submission_may_be_a_component_or_that_the_grader_has_a_score() -> None:
    by_score = [NAME, f"{OPTIONS}.score=grade"]
    assert judged([program("x", score=-1), program("x", score=1)], *by_score, env=Contest()) == [-10, 0.5]
    by_check = [*by_score, f"{OPTIONS}.valid=readable"]
    three = [program("x", score=outcome, status="truncated") for outcome in (-1, 1, 2)]
    assert judged(three, *by_check, env=Contest()) == [-10, -10, 0.5]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([f"{OPTIONS}.marks=['(']"], "no regular expression"),
        ([f"{OPTIONS}.score=grad"], "no reward 'grad'. Did you mean 'grade'"),
        ([f"{OPTIONS}.valid=ok"], "no reward 'ok'"),
        ([f"{OPTIONS}.per_hits=1"], "Did you mean 'per_hit'"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_starts(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        shape_of(plan(load_config("env", [NAME, *words]).algorithm).shaping, Contest(), 4)


def slow(seconds: float, score: float) -> Trajectory:
    one: Trajectory = program("loaded data", score=score)
    turn: Turn = one.turns[0]
    turn.generate_seconds, turn.tool_seconds = seconds / 2, seconds / 2
    return one


def test_the_papers_weights_by_duration_through_the_trainers_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds [1, 1, 10, 4] and advantages [.5, -.5, 1, -1] give [.125, -.125, 2.5, -1]."""
    made = lab(monkeypatch, NAME, "algorithm.advantage.whiten=false")
    advantages: Sequence[float] = [0.5, -0.5, 1, -1]
    group = [slow(seconds, score) for seconds, score in zip((1, 1, 10, 4), (0.8, 0.6, 0.4, 0.2), strict=True)]
    assert judged(group, NAME) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    values = {
        f"g1x0_{i}_0": [(one.reward or 0.0) - a]
        for i, (one, a) in enumerate(zip(group, advantages, strict=True))
    }
    rows = list(step(made, {"t": group}, values=values).values())
    assert [row["advantages"][0] for row in rows] == pytest.approx(advantages)
    assert [row["loss_weights"][0] for row in rows] == pytest.approx([0.25, 0.25, 2.5, 1])
    weighed = [row["loss_weights"][0] * row["advantages"][0] for row in rows]
    assert weighed == pytest.approx([0.125, -0.125, 2.5, -1])

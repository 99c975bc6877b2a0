"""SPA-RL: contributions of turns through judgement and the trainer's step, learned as it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from replay_support import Lab, lab
from shaping_support import Shop, episode, judged, step

from agentrl import Observation, Segment, Task, Trajectory, Turn
from agentrl.config import load_config
from agentrl.doctor import Row
from agentrl.errors import ConfigError, NotFound
from agentrl.train.algorithm import plan
from agentrl.train.attribution import placed, turn_features
from agentrl.train.shaping import shape_of
from agentrl.trajectory import Call

NAME = "algorithm.name=spa"
OPTIONS = "algorithm.shaping.options"


class Given(torch.nn.Module):
    """Contributions that were decided before."""

    def __init__(self, *contributions: float) -> None:
        super().__init__()
        self.contributions = torch.nn.Parameter(torch.tensor(contributions), requires_grad=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.contributions.expand(features.shape[:-1])


def three_turns(outcome: float = 1.0) -> Trajectory:
    """The call of the second turn fails."""
    one = episode(outcome, [0, 0, 0], calls=2)
    one.turns[1].calls[0].observation = Observation("no such item", error=True)
    return one


def rows_of(made: Lab) -> list[Row]:
    return [Row(key, made.queue.rows[key]["extra_fields"]["episode"]) for key in made.queue.rows]


def test_the_papers_rewards_lie_on_turns_ends_when_advantages_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Contributions [.1, .4, .3] of an outcome of 1 and a call that failed: [.6, .4, .8], an error of .04."""
    made = lab(monkeypatch, NAME, f"{OPTIONS}.epochs=0")
    made.trainer._attribution._model = Given(0.1, 0.4, 0.3)
    one = three_turns()
    assert judged([one], NAME) == [pytest.approx(1.0)]  # the bonus alone, until the trainer adds to it
    [row] = step(made, {"t": [one]}).values()
    assert row["rm_scores"] == pytest.approx([0.6, 0.4, 0.8])
    assert row["returns"] == pytest.approx([1.8, 1.2, 0.8])
    [told] = made.trainer._attribution.told(rows_of(made))
    assert told.episode["reward"] == pytest.approx(1.8)  # as the doctor finds it in the rows
    assert made.trainer._attribution.take_told() == pytest.approx(
        {"progress/error": 0.04, "progress/contributed": 0.8}
    )
    assert made.trainer._attribution.take_told() == {}


def test_contributions_of_turns_in_several_rows_lie_where_the_turns_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = lab(monkeypatch, NAME, f"{OPTIONS}.epochs=0", f"{OPTIONS}.beta=0", f"{OPTIONS}.alpha=2")
    made.trainer._attribution._model = Given(0.1, 0.4, 0.3)
    one = three_turns()
    one.segments.append(Segment([1, 2, 3]))
    start, end = one.segments[1].add_sampled([7, 7], [-1.0] * 2, [0] * 2)
    one.turns[2].segment, one.turns[2].start, one.turns[2].end = 1, start, end
    one.segments[0] = Segment([1, 2])
    for turn in one.turns[:2]:
        turn.start, turn.end = one.segments[0].add_sampled([9], [-1.0], [0])
    judged([one], NAME, f"{OPTIONS}.beta=0")
    first, last = step(made, {"t": [one]}).values()
    assert first["rm_scores"] == pytest.approx([0.2, 0.8])
    assert last["rm_scores"] == pytest.approx([0, 0.6])


def test_where_only_an_episodes_last_row_counts_all_of_it_lies_there() -> None:
    """Of three turns the last has no row of its own any more: nothing of it was sampled."""
    rows = [
        {"rm_scores": np.zeros(n), "response_mask": np.ones(n, int), "turn_ids": np.full(n, turn)}
        for n, turn in ((2, 0), (3, 1))
    ]
    contributions = np.array([0.1, 0.4, 0.3])
    apart, carried = (placed(contributions, rows, carry=carry) for carry in (False, True))
    assert [row.tolist() for row in apart] == [pytest.approx([0, 0.1]), pytest.approx([0, 0, 0.4])]
    assert [row.tolist() for row in carried] == [[0, 0], pytest.approx([0, 0, 0.5])]


def test_the_releases_mode_pays_every_turn_the_outcome_less_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [NAME, f"{OPTIONS}.mode=loo_outcome"]
    made = lab(monkeypatch, *words)
    assert made.trainer._attribution is None
    group = [episode(outcome, [0, 0]) for outcome in (1, 0, 0.5)]
    assert judged(group, *words) == pytest.approx([1.5, -1.5, 0])
    scores = [row["rm_scores"] for row in step(made, {"t": group}).values()]
    assert scores == [[0.75, 0.75], [-0.75, -0.75], [0, 0]]
    assert judged([episode(1)], *words) == [0]


@pytest.mark.parametrize("kind", ["def contribution", "@reward(per='turn')\ndef contribution"])
def test_an_estimator_of_ones_own_says_the_contributions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    source = f"from agentrl import reward\n\n{kind}(episode, turn):\n    return [0.1, 0.4, 0.3][turn.index]\n"
    file = tmp_path / f"estimate{len(kind)}.py"
    file.write_text(source)
    words = [NAME, f"{OPTIONS}.estimator='{file}:contribution'"]
    made = lab(monkeypatch, *words)
    assert made.trainer._attribution is None
    one = three_turns()
    assert judged([one], *words) == [pytest.approx(1.8)]
    [row] = step(made, {"t": [one]}).values()
    assert row["rm_scores"] == pytest.approx([0.6, 0.4, 0.8])
    assert one.components["contribution"] == pytest.approx(0.8)


def said(*turns: Sequence[int], seen: Sequence[int] = (3, 4), outcome: float = 0.0) -> Trajectory:
    """Turns of these tokens with the same observation behind each."""
    one = Trajectory(
        Task("?", metadata={"outcome": outcome}), "e", segments=[Segment([1, 2])], status="finished"
    )
    for index, tokens in enumerate(turns):
        start, end = one.segments[0].add_sampled(list(tokens), [-1.0] * len(tokens), [0] * len(tokens))
        one.segments[0].add_context(list(seen))
        one.turns.append(Turn(index, 0, start, end, calls=[Call("look", {}, str(index))]))
    return one


def played(rng: np.random.Generator) -> Trajectory:
    """Each token 5 is worth a quarter; what else is said is worth nothing."""
    turns = [[int(rng.integers(5, 9))] for _ in range(int(rng.integers(1, 5)))]
    return said(*turns, outcome=0.25 * sum(tokens == [5] for tokens in turns))


def learn(made: Lab, rng: np.random.Generator, steps: int) -> list[float]:
    errors = []
    for _ in range(steps):
        group = [played(rng) for _ in range(8)]
        judged(group, NAME)
        step(made, {"t": group})
        errors.append(made.trainer._attribution.take_told()["progress/error"])
    return errors


def probe(made: Lab) -> list[float]:
    one = said([5], [6], [5], outcome=0.5)
    judged([one], NAME)
    [row] = step(made, {"t": [one]}).values()
    return [row["rm_scores"][column] - 0.5 for column in (0, 3, 6)]


def test_it_learns_which_turns_pay_and_goes_on_from_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, rng = lab(monkeypatch, NAME, size=8), np.random.default_rng(0)
    errors = learn(made, rng, 12)
    assert np.mean(errors[-3:]) < 0.2 * errors[0]
    for memory in made.trainer._memories():
        memory.save(tmp_path)
    found = probe(made)
    assert found == pytest.approx([0.25, 0, 0.25], abs=0.06)
    resumed = lab(monkeypatch, NAME, size=8)
    for memory in resumed.trainer._memories():
        memory.load(tmp_path)
    assert probe(resumed) == found
    fresh = lab(monkeypatch, NAME, size=8)
    for memory in fresh.trainer._memories():
        memory.load(tmp_path / "of a run without")
    assert probe(fresh) != pytest.approx(found, abs=0.01)


def row(one: Trajectory) -> dict[str, Any]:
    [sample] = one.samples()
    return {"prompts": np.array(sample.prompt_ids), "responses": np.array(sample.response_ids),
            "response_mask": np.array(sample.mask, int), "turn_ids": np.array(sample.turns)}  # fmt: skip


def test_what_an_estimator_sees_is_not_the_order_of_what_was_observed() -> None:
    first, other = (turn_features([row(said([5, 6], [7], seen=seen))], 16) for seen in ([3, 4, 4], [4, 3, 4]))
    assert first.shape == (2, 51) and np.array_equal(first, other)
    assert not np.array_equal(first, turn_features([row(said([5, 5], [7], seen=[3, 4, 4]))], 16))


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ([f"{OPTIONS}.mode=lo"], ConfigError, "mode='lo'"),
        ([f"{OPTIONS}.estimator=no_such.module:name"], NotFound, "no_such"),
        ([f"{OPTIONS}.estimator=agentrl.train.attribution:FILE"], ConfigError, "str, neither a reward"),
        (["algorithm.replay={name: task}"], ConfigError, "algorithm.replay=null"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_starts(words: list[str], error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        shape_of(plan(load_config("env", [NAME, *words]).algorithm).shaping, Shop(), 4)

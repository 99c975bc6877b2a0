"""ArCHer's critic beside the policy: what it learns from, what it says, and how that reaches the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from replay_support import Played, lab

from agentrl.config import load_config
from agentrl.errors import ConfigError
from agentrl.train.algorithm import plan, verl_options
from agentrl.train.utterance import Row, Utterance, UtteranceCritic, utterances
from agentrl.train.utterance_settings import UtteranceSettings

ARCHER = "algorithm.name=archer"
SMALL = UtteranceSettings(epochs=5, batch_size=16, width=16, buckets=64, context=8, learning_rate=0.01)


def turn(state: list[int], action: list[int], reward: float, following: list[int] | None) -> Utterance:
    ids = [torch.tensor(each, dtype=torch.int32) for each in (state, action, following or [])]
    return Utterance(ids[0], ids[1], reward, following is None, ids[2])


def learn(critic: UtteranceCritic, turns: list[Utterance]) -> float:
    critic.keep(turns)
    return critic.learn(critic.lesson())


def loss(critic: UtteranceCritic, turn: Utterance) -> float:
    return critic.loss([turn], [turn.action]).item()


def test_an_episodes_turns_reach_over_its_rows() -> None:
    """Two turns in one row with an observation between, and a third in a row of its own."""
    first = Row(np.array([1, 2]), np.array([10, 11, 20, 12]), np.array([1, 1, 0, 1]),
                np.array([0, 0.5, 0, 0]), np.array([0, 0, -1, 1]))  # fmt: skip
    second = Row(
        np.array([5, 6, 7]), np.array([13, 21]), np.array([1, 0]), np.array([1.0, 0]), np.array([2, -1])
    )
    found, spans = utterances([first, second], context=3)
    assert [one.state.tolist() for one in found] == [[1, 2], [10, 11, 20], [5, 6, 7]]
    assert [one.action.tolist() for one in found] == [[10, 11], [12], [13]]
    assert [(one.reward, one.done) for one in found] == [(0.5, False), (0.0, False), (1.0, True)]
    assert [one.following.tolist() for one in found] == [[10, 11, 20], [5, 6, 7], []]
    assert [(span.row, span.places.tolist()) for span in spans] == [(0, [0, 1]), (0, [3]), (1, [0])]
    whole, _ = utterances([first, second], context=None)
    assert [one.state.tolist() for one in whole] == [[1, 2], [1, 2, 10, 11, 20], [5, 6, 7]]


def test_what_follows_the_last_turn_changes_nothing() -> None:
    critic = UtteranceCritic(SMALL, seed=1)
    one, other = (
        Utterance(*(torch.tensor([3]), torch.tensor([4])), 1.0, True, torch.tensor(ids))
        for ids in ([5], [6, 7])
    )
    assert loss(critic, one) == loss(critic, other)
    later = [Utterance(one.state, one.action, 1.0, False, each.following) for each in (one, other)]
    assert loss(critic, later[0]) != loss(critic, later[1])


def test_it_learns_which_action_is_worth_more() -> None:
    """In a state one action ends with 1 and the other with 0; before it lies a turn that leads there."""
    critic = UtteranceCritic(SMALL.model_copy(update={"epochs": 200, "gamma": 0.5}))
    good, bad = turn([1], [8], 1.0, None), turn([1], [9], 0.0, None)
    before = turn([2], [7], 0.0, [1])
    losses = [learn(critic, [good, bad, before]) for _ in range(2)]
    assert losses[1] < losses[0]
    (q, _), (v, _) = critic.values([good, bad, before])
    assert q.tolist() == pytest.approx([1.0, 0.0, 0.25], abs=0.1)
    assert v.tolist() == pytest.approx([0.5, 0.5, 0.25], abs=0.2)
    gaps = critic.advantages([good, bad])
    assert gaps[0] > 0.2 and gaps[1] < -0.2


def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_been(tmp_path: Path) -> None:
    turns = [turn([1, i], [8 + i], float(i % 2), [2, i] if i < 3 else None) for i in range(4)]
    critic, again = UtteranceCritic(SMALL, seed=1), UtteranceCritic(SMALL, seed=2)
    learn(critic, turns)
    critic.save(tmp_path)
    again.load(tmp_path / "of a run without")
    again.load(tmp_path)
    assert len(again) == 4
    assert learn(critic, turns[:1]) == learn(again, turns[:1])
    assert torch.equal(critic.advantages(turns), again.advantages(turns))


def test_the_oldest_turns_give_way() -> None:
    critic = UtteranceCritic(SMALL.model_copy(update={"capacity": 3, "epochs": 1}))
    critic.keep([turn([1], [i], 0.0, None) for i in range(5)])
    assert len(critic) == 3


# ---- through the trainer


def test_a_turns_advantage_reaches_all_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """ArCHer's numbers: Q = .6, .7 and V = .4, .55 give .2, for the first turn; the second gets -.1."""
    made = lab(monkeypatch, ARCHER, size=2)

    def values(self: Any, turns: list[Utterance]) -> Any:
        q, v = [[0.6, 0.7], [0.3, 0.2]], [[0.4, 0.55], [0.3, 0.5]]
        kinds = [int(one.done) for one in turns]
        q, v = (torch.tensor([values[kind] for kind in kinds]).T for values in (q, v))
        return (q[0], q[1]), (v[0], v[1])

    learned: list[list[Utterance]] = []
    monkeypatch.setattr(UtteranceCritic, "values", values)
    monkeypatch.setattr(UtteranceCritic, "keep", lambda self, turns: learned.append(list(turns)))
    monkeypatch.setattr(UtteranceCritic, "lesson", lambda self: [])
    monkeypatch.setattr(UtteranceCritic, "learn", lambda self, turns: 0.5)
    update = made.step({"a": [Played(1.0, tokens=[3, 2]), Played(0.0, tokens=[1, 1], split=True)]})
    found = update.column("advantages")
    assert found["g1x0_0_0"] == pytest.approx([0.2] * 3 + [-0.1] * 2)
    assert found["g1x0_1_0"] == pytest.approx([0.2]) and found["g1x0_1_1"] == pytest.approx([-0.1])
    assert [(one.reward, one.done) for one in learned[0]] == [(0, False), (1, True), (0, False), (0, True)]
    assert all(not row["loss_shares"].isnan().any() for row in update.rows.values())


def test_the_policy_waits_while_the_critic_warms_up() -> None:
    def warmup(*words: str) -> int:
        settings = load_config("env", list(words)).algorithm
        return int(verl_options(plan(settings), 16)["trainer.critic_warmup"])

    assert warmup(ARCHER) == 21 and warmup("algorithm.name=grpo") == 0
    assert warmup(ARCHER, "algorithm.critic.options.warmup=2") == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([ARCHER, "algorithm.critic.options.taus=1"], r"Did you mean 'tau'"),
        (["algorithm.name=ppo", "algorithm.critic.kind=utterance"], "level must be turn"),
    ],
)
def test_what_does_not_fit_is_told(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(load_config("env", words).algorithm)

"""ArCHer's fresh actions: how they are drawn, what the critic learns of them, and the rows they become."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from replay_support import Lab, Played, lab

from agentrl.chat import Chat
from agentrl.config import load_config
from agentrl.doctor import examine_step
from agentrl.errors import ConfigError, InfrastructureError
from agentrl.train.algorithm import plan
from agentrl.train.batch import TOKEN_FIELDS, fetch_rows
from agentrl.train.fresh import FreshActions
from agentrl.train.policy import VerlPolicy
from agentrl.train.utterance import Utterance, UtteranceCritic
from agentrl.train.utterance_settings import UtteranceSettings, check_fresh

ARCHER = "algorithm.name=archer"
RESAMPLE = "algorithm.critic.options.resample=true"
SAID = [21, 22, 23]
"""What the engine draws everywhere."""


class Client:
    """An engine that says the same in every state, save in those that it fails on."""

    def __init__(self, *failing: list[int]) -> None:
        self.failing, self.asked = failing, []

    async def generate(
        self, name: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> SimpleNamespace:
        self.asked.append((name, prompt_ids, sampling_params))
        if prompt_ids in self.failing:
            raise ConnectionError("gone")
        return SimpleNamespace(
            token_ids=SAID, log_probs=[-1.0] * 3, stop_reason="completed", extra_fields={"global_steps": 4}
        )


def actions(client: Client, *settings: str, seed: int | None = None) -> FreshActions:
    chat: Any = SimpleNamespace(stop_token_ids=[23], stop_strings=["</call>"])
    limits = load_config(
        "env", ["rollout.max_prompt_tokens=16", "rollout.max_trajectory_tokens=16", *settings]
    )
    return FreshActions(VerlPolicy(client, 5.0), chat, limits.rollout, seed)


def states(*ids: list[int]) -> list[torch.Tensor]:
    return [torch.tensor(each, dtype=torch.int32) for each in ids]


# ---- drawing


def test_an_action_is_drawn_as_a_turn_is() -> None:
    client = Client()
    (found,) = actions(client, "rollout.temperature=0.7", "rollout.max_turn_tokens=3").draw(states([1, 2]), 5)
    assert found.place == 0 and found.action.tolist() == SAID
    ((name, prompt, asked),) = client.asked
    assert (name, prompt) == ("fresh5x0", [1, 2])
    assert asked["temperature"] == 0.7 and asked["max_tokens"] == 3 and "seed" not in asked
    assert asked["stop_token_ids"] == [23] and asked["stop"] == ["</call>"]


def test_no_row_grows_longer_than_an_episode() -> None:
    client = Client()
    actions(client, "rollout.max_turn_tokens=4").draw(states([1] * 29), 1)
    assert client.asked[0][2]["max_tokens"] == 3


def test_seeds_depend_on_the_run_the_step_and_the_place() -> None:
    def seeds(run: int, step: int) -> list[int]:
        client = Client()
        actions(client, seed=run).draw(states([1], [1]), step)
        return [asked["seed"] for _, _, asked in sorted(client.asked)]

    assert seeds(1, 1) == seeds(1, 1)
    assert len({*seeds(1, 1), *seeds(1, 2), *seeds(2, 1)}) == 6


def test_a_state_that_the_engine_fails_on_is_left_out() -> None:
    found = actions(Client([2])).draw(states([1], [2], [3]), 1)
    assert [each.place for each in found] == [0, 2]
    with pytest.raises(InfrastructureError, match="none of 1 fresh actions of step 7.*gone"):
        actions(Client([2])).draw(states([2]), 7)
    assert actions(Client()).draw([], 1) == []


# ---- the critic


def test_v_is_judged_by_the_fresh_action_and_q_by_the_one_that_was_taken() -> None:
    """ArCHer: V's target is the slow Q of a fresh action; with Q = .7 of it V goes towards .7."""
    how = UtteranceSettings(epochs=300, batch_size=4, width=16, buckets=64, context=8, learning_rate=0.01)
    critic = UtteranceCritic(how)
    nothing = torch.empty(0, dtype=torch.int32)
    taken, fresh = states([8], [9])
    state = torch.tensor([1], dtype=torch.int32)
    kept = [Utterance(state, taken, 0.0, True, nothing), Utterance(state, fresh, 0.7, True, nothing)]
    critic.keep(kept)
    turns = critic.lesson()
    critic.learn(turns, [fresh] * len(turns))
    (q, _), (v, _) = critic.values(kept)
    assert q.tolist() == pytest.approx([0.0, 0.7], abs=0.1)
    assert v.tolist() == pytest.approx([0.7, 0.7], abs=0.1)  # by the actions taken it would be .35


# ---- through the trainer


def fresh_lab(monkeypatch: pytest.MonkeyPatch, warmup: int, client: Client | None = None) -> Lab:
    made = lab(
        monkeypatch, ARCHER, RESAMPLE, f"algorithm.critic.options.warmup={warmup}",
        "algorithm.critic.options.epochs=2", "algorithm.critic.options.batch_size=3", size=2,
    )  # fmt: skip
    made.trainer.get_llm_client = lambda: client or Client()
    monkeypatch.setattr(Chat, "__init__", lambda self, tokenizer, renderer: None)
    monkeypatch.setattr(Chat, "stop_token_ids", [23], raising=False)
    monkeypatch.setattr(Chat, "stop_strings", [], raising=False)
    return made


STEP = {"a": [Played(1.0, tokens=[3, 2]), Played(0.0, tokens=[1, 1], split=True)]}


def test_the_policy_is_trained_on_fresh_actions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """ArCHer's numbers, Q = .6, .7 and V = .4, .55: every token of a fresh action gets .2."""
    made = fresh_lab(monkeypatch, warmup=0)
    learned: list[tuple[list[Utterance], list[torch.Tensor]]] = []

    def values(self: Any, turns: list[Utterance]) -> Any:
        assert all(turn.action.tolist() == SAID for turn in turns)
        q, v = (torch.tensor([pair] * len(turns)).T for pair in ([0.6, 0.7], [0.4, 0.55]))
        return (q[0], q[1]), (v[0], v[1])

    def learn(self: Any, turns: list[Utterance], said: list[torch.Tensor]) -> float:
        learned.append((turns, said))
        return 0.5

    monkeypatch.setattr(UtteranceCritic, "values", values)
    monkeypatch.setattr(UtteranceCritic, "learn", learn)
    played_states = [[1, 2], [1, 2, 9, 9, 9], [1, 2, 3]]
    update = made.step(STEP)

    assert sorted(update.keys) == ["fresh1x0_0_0", "fresh1x1_0_0"]  # as many as the step's episodes
    for key, row in update.rows.items():
        assert row["responses"].tolist() == SAID and row["prompts"].tolist() in played_states
        assert row["advantages"].tolist() == pytest.approx([0.2] * 3)
        assert row["rollout_log_probs"].tolist() == [-1.0] * 3 and row["response_mask"].tolist() == [1] * 3
        assert row["input_ids"].tolist() == [*row["prompts"].tolist(), *SAID]
        assert row["position_ids"].tolist() == list(range(len(row["input_ids"])))
        assert made.queue.tags[key]["seq_len"] == len(row["input_ids"])
    ((turns, said),) = learned
    assert len(turns) == 6 and [each.tolist() for each in said] == [SAID] * 6
    assert all(turn.state.tolist() in played_states for turn in turns)
    # The episodes' own rows are gone, and what they tell is still told.
    assert set(made.queue.rows) == set(update.keys)
    assert [row.episode["reward"] for row in made.trainer._episode_rows or []] == [1.0, 0.0, 0.0]


def test_the_doctor_examines_fresh_rows_like_any_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fresh_lab(monkeypatch, warmup=0)
    made.step(STEP)
    assert made.last is not None
    rows = fetch_rows(made.last, tokens=TOKEN_FIELDS)

    def report() -> list[str]:
        found = examine_step(rows, step=1, algorithm=made.trainer._settings.algorithm)
        return [check.name for check in found.checks if not check.passed]

    for row in rows:  # the recording workers stand for a policy that the engine does not have
        row.columns["old_log_probs"] = row.columns["rollout_log_probs"]
    assert report() == []
    rows[0].columns["responses"] = rows[0].columns["responses"] + 1
    assert "trained tokens are the sampled tokens" in report()


def test_while_the_critic_warms_up_the_steps_own_rows_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    made = fresh_lab(monkeypatch, warmup=1, client=client)
    first = made.step(STEP)  # verl does not update the policy yet
    assert set(first.column("advantages")) == {"g1x0_0_0", "g1x0_1_0", "g1x0_1_1"}
    assert len(client.asked) == 6 and made.trainer._episode_rows is None
    second = made.step(STEP)
    assert set(second.keys) == {"fresh2x0_0_0", "fresh2x1_0_0"} and len(client.asked) == 14


def test_states_are_drawn_from_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = fresh_lab(monkeypatch, warmup=0), set()
    made.step({"a": [Played(1.0, tokens=[4]), Played(1.0, tokens=[4])]})
    for _ in range(12):
        update = made.step({"b": [Played(0.0, tokens=[1, 1]), Played(0.0, tokens=[1, 1])]})
        seen |= {tuple(row["prompts"].tolist()) for row in update.rows.values()}
    assert seen == {(1, 2), (1, 2, 9)}
    assert len(made.trainer._turn_critic or []) == 2 + 12 * 4


# ---- what does not go with it


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mode=async"], "takes mode=sync"),
        (["algorithm.weights.kind=duration"], "It wants algorithm.weights.kind=none"),
        (["algorithm.filters.solved=0.9"], "algorithm.filters as they are by default"),
        (["algorithm.replay.name=task"], "It wants algorithm.replay=null"),
        (["algorithm.shaping.name=progress"], "It wants algorithm.shaping=null"),
    ],
)
def test_what_looks_at_played_turns_is_refused(words: list[str], said: str) -> None:
    config = load_config("env", [ARCHER, RESAMPLE, *words])
    carried_out = plan(config.algorithm)
    with pytest.raises(ConfigError, match=said):
        check_fresh(carried_out.algorithm, carried_out.utterance, config.mode)


def test_with_the_actions_taken_all_of_it_goes() -> None:
    config = load_config("env", [ARCHER, "mode=async", "algorithm.replay.name=task"])
    check_fresh(plan(config.algorithm).algorithm, plan(config.algorithm).utterance, config.mode)

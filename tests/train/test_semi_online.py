"""UI-S1: episodes along an expert's trace, from the episode loop to the trainer's advantages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from replay_support import lab
from rollout_support import Lines, make_chat, make_runner, sampled, write_call
from shaping_support import Shop, episode, step

from agentrl import Env, Task, Trajectory, reward, tool
from agentrl.config import load_config
from agentrl.doctor import Row
from agentrl.errors import ConfigError, DefinitionError
from agentrl.rollout import succeeded
from agentrl.rollout.control import SemiOnline
from agentrl.rollout.control_part import Control
from agentrl.scoring import score_episode
from agentrl.train.agent_loop import to_outputs
from agentrl.train.algorithm import plan
from agentrl.train.metrics import step_metrics
from agentrl.train.shaping import shape_of
from agentrl.train.summary import summary_of
from agentrl.trajectory import Guided

NAME = "algorithm.name=ui_s1"


class Counter(Env):
    """The expert adds 2 and 3, then says the sum. A call's observation is the sum so far."""

    success = "right"

    async def reset(self, task: Task) -> None:
        self.total = 0

    @tool
    async def add(self, number: int) -> str:
        """Add a number."""
        self.total += number
        return f"sum {self.total}"

    @reward
    def right(self, episode: Trajectory) -> float:
        return float(episode.messages[-1]["content"] == "5")

    def expert(self, task: Task, rng: Any) -> Any:
        seen: list[str] = []
        for number in (2, 3):
            called = {"name": "add", "arguments": {"number": number}}
            call = {"id": f"c{number}", "type": "function", "function": called}
            seen = yield {"content": f"I add {number}.", "tool_calls": [call]}
        yield {"content": seen[0].removeprefix("sum ")}


TASK = Task("Add.", id="add")
TWO, THREE, WRONG = write_call("add", number=2), write_call("add", number=3), write_call("add", number=7)


async def play(*lines: str, env: Env | None = None, **options: Any) -> tuple[Trajectory, Lines, Any]:
    env, policy = env or Counter(), Lines(*lines)
    shape = shape_of(plan(load_config("env", [NAME]).algorithm).shaping, env, 4)
    runner, recorder = make_runner(env, policy, shape=shape, control=SemiOnline(**options))
    return await runner.run(TASK, episode_id="e"), policy, recorder


def texts(prompts: Sequence[Sequence[int]]) -> list[str]:
    return [make_chat().decode(list(prompt)) for prompt in prompts]


async def test_a_policy_that_does_what_the_expert_does_is_on_its_own_tokens() -> None:
    one, policy, recorder = await play(f"Two first. {TWO}", THREE, " 5\n")
    assert one.status == "finished" and one.patched == 0 and one.expert_turns == 3
    assert [turn.guided for turn in one.turns] == [Guided(True, True, True)] * 3
    assert len(one.segments) == 1 and "Two first." in texts(policy.prompts["e"])[1]
    assert one.turn_reward == pytest.approx({0: 1, 1: 1, 2: 1}) and one.unshaped == 1
    assert summary_of(one)["trace"] == {"matched": 3, "turns": 3, "patched": 0}
    assert {getattr(event, "episode", "e") for event in recorder.events} == {"e"}  # none of the expert's


async def test_a_turn_that_strays_is_trained_and_the_expert_goes_on_from_there() -> None:
    one, policy, _ = await play(f"Hm. {TWO}", f"Seven! {WRONG}", "5")
    assert [turn.guided for turn in one.turns] == [
        Guided(True, True, True), Guided(True, True, False, patched=True), Guided(True, True, True)
    ]  # fmt: skip
    assert [call.arguments for call in one.calls] == [{"number": 2}, {"number": 3}]
    assert one.calls[1].observation.text == "sum 5"  # the wrong call was never made
    last = texts(policy.prompts["e"])[2]
    assert "Hm." in last and "sum 5" in last and "Seven" not in last and '"number": 3' in last
    assert "I add 3." not in last  # without its thought
    assert succeeded(Counter(), one) is False and Counter().right(one) == 1
    assert one.turn_reward == pytest.approx({0: 1, 1: 0.5, 2: 1})
    first, second = one.samples()
    trained = [
        [i for i, mask in zip(row.response_ids, row.mask, strict=True) if mask] for row in (first, second)
    ]
    assert trained == [[*sampled(f"Hm. {TWO}"), *sampled(f"Seven! {WRONG}")], sampled("5")]
    assert first.rewards[first.turns.index(1) :][-1] == pytest.approx(0.5)
    assert second.prompt_ids == policy.prompts["e"][2]  # the doctor looks for just that
    whole = (await play(f"Hm. {TWO}", WRONG, "5", patch="off_policy"))[1]
    assert "I add 3." in texts(whole.prompts["e"])[2]


async def test_without_patches_left_the_turn_that_strays_is_the_last() -> None:
    one, _, _ = await play(WRONG, WRONG, "5")
    assert (one.status, len(one.turns), one.patched) == ("finished", 2, 1)
    assert "left the expert's trace in turn 1" in one.reason
    none, _, _ = await play(TWO, "It is 2.", patches=0)
    assert [turn.guided.matched for turn in none.turns if turn.guided] == [True, False]
    assert none.turn_reward == pytest.approx({0: 1, 1: 0.1}) and len(none.samples()) == 1
    assert summary_of(none)["trace"] == {"matched": 1, "turns": 3, "patched": 0}


async def test_a_broken_or_cut_off_turn_has_no_form_and_is_patched_too() -> None:
    broken, _, _ = await play('<tool_call>\n{"name": "add"', THREE, "5")
    assert broken.turns[0].guided == Guided(False, False, False, patched=True)
    assert broken.turn_reward == pytest.approx({0: 0, 1: 1, 2: 1}) and len(broken.turns) == 3


def alike(own: Mapping[str, Any], expert: Mapping[str, Any]) -> bool:
    """Any call is as good as another."""
    return bool(own.get("tool_calls")) == bool(expert.get("tool_calls"))


async def test_what_the_same_action_is_may_be_ones_own() -> None:
    one, _, _ = await play(WRONG, THREE, "ten", same=f"{__file__}:alike")
    assert [turn.guided.exact for turn in one.turns if turn.guided] == [True] * 3 and one.patched == 0
    assert [call.arguments for call in one.calls] == [{"number": 7}, {"number": 3}]


async def test_the_expert_plays_a_task_once_for_all_episodes() -> None:
    asked: list[str] = []

    class Told(Counter):
        def expert(self, task: Task, rng: Any) -> Any:
            asked.append(task.id)
            return super().expert(task, rng)

    runner, _ = make_runner(Told(), Lines(TWO, THREE, "5"), control=SemiOnline())
    for name in ("a", "b"):
        assert (await runner.run(TASK, episode_id=name)).patched == 0
    assert asked == ["add"]


async def test_an_expert_that_does_not_come_to_its_end_is_told() -> None:
    with pytest.raises(DefinitionError, match=r"did not come to the end of task add.*max_turns=2"):
        runner, _ = make_runner(Counter(), Lines(TWO), control=SemiOnline(), max_turns=2)
        await runner.run(TASK, episode_id="e")


def guided(rewards: Sequence[float], matches: Sequence[bool]) -> Trajectory:
    """An episode of a turn per reward, each of a token."""
    one = episode(0, [0] * len(rewards))
    one.turn_reward = dict(enumerate(rewards))
    one.reward, one.expert_turns = sum(rewards), len(rewards)
    for turn, matched in zip(one.turns, matches, strict=True):
        turn.guided = Guided(True, True, matched)
    return one


@pytest.mark.parametrize(("form", "returns"), [("paper", [1.625, 1.25, 0.5, 1]), ("code", [1.5, 1, 0.5, 1])])
def test_returns_end_at_a_mismatch_in_the_trainers_step(
    monkeypatch: pytest.MonkeyPatch, form: str, returns: list[float]
) -> None:
    alone = f"{{level: step, baseline: none, scale: none, gamma: 0.5, segments: {form}}}"
    made = lab(monkeypatch, NAME, f"algorithm.advantage={alone}", "algorithm.second_advantage=null",
               "algorithm.filters.least_std=null", size=2)  # fmt: skip
    group = [guided([1, 1, 0.5, 1], [True, True, False, True]), guided([0], [False])]
    first, _ = step(made, {"t": group}).values()
    assert first["advantages"] == pytest.approx(returns)


def test_the_papers_advantages_of_episode_and_step_in_the_trainers_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First turns' returns [1.75, 1, .55, .55], whole rewards [1, 0, 0, 1]."""
    made = lab(monkeypatch, NAME)
    rewards: list[list[float]] = [[2.5, -1.5], [2, -2], [1.1, -1.1], [0.1, 0.9]]
    group = [guided(own, [True, True]) for own in rewards]
    rows = list(step(made, {"t": group}).values())
    firsts = [row["advantages"][0] for row in rows]
    assert firsts == pytest.approx([2.25678, -0.799797, -1.594515, 0.137532], abs=1e-4)
    assert all(np.all(np.array(row["loss_shares"]) > 0) for row in rows)


def test_groups_whose_rewards_hardly_differ_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab(monkeypatch, NAME, tasks=2, size=2)
    alike, other = [guided([own], [False]) for own in (0.5, 1)], [guided([own], [False]) for own in (0, 1)]
    rows = step(made, {"t": alike, "u": other})
    assert [bool(np.any(row["loss_shares"])) for row in rows.values()] == [False, False, True, True]


def test_a_step_tells_the_semi_online_performance() -> None:
    """Turns matched [3, 5, 0] of [4, 5, 2]: .583333, .333333 and .458333."""
    base = {"reward": 0.25, "success": False, "calls": 0, "call_errors": 0, "turns": 1, "tokens": 1,
            "status": "finished", "generate_seconds": 0, "tool_seconds": 0, "interrupted": 0,
            "prompt_tokens": 0, "cached_tokens": 0, "row_tokens": 0, "rewards": {}}  # fmt: skip
    traces = [{"matched": m, "turns": t, "patched": 1} for m, t in ((3, 4), (5, 5), (0, 2))]
    rows = [Row(f"t_{i}_0", {**base, "trace": trace}) for i, trace in enumerate(traces)]
    found = step_metrics(rows, {}, {}, expected=3)
    told = [found[f"sop/{name}"] for name in ("progress", "success", "score")]
    assert told == pytest.approx([0.583333, 0.333333, 0.458333], abs=1e-6)
    assert found["turns/patched"] == 3
    assert "sop/score" not in step_metrics([Row("t_0_0", base)], {}, {}, expected=1)


async def test_both_forms_of_the_step_reward() -> None:
    """Right in form and kind alone: .5 by the paper, .55 by the release."""
    one = guided([0], [False])
    for form, expected in (("paper", 0.5), ("code", 0.55)):
        words = [NAME, f"algorithm.shaping.options.form={form}"]
        shape = shape_of(plan(load_config("env", words).algorithm).shaping, Shop(), 4)
        assert shape is not None
        await score_episode(one, Shop().own_rewards(), shape(Shop().own_rewards()))
        [row] = to_outputs(one, {"success": False}, [], carry=False)
        assert row.token_rewards == pytest.approx([expected]) and row.turn_matches == [0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["algorithm.rollout=null"], r"algorithm\.rollout\.name=semi_online"),
        (["algorithm.rollout.options.patch=on_policy"], "patch='on_policy'"),
        (["algorithm.rollout.options.patches=-1"], "patches=-1"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_starts(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _ = plan(load_config("env", [NAME, *words]).algorithm).control


def test_an_environment_without_an_expert_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no expert"):
        make_runner(Shop(), Lines("x"), control=SemiOnline())
    assert type(SemiOnline().held_out()) is Control

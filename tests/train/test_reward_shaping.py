"""Shaped rewards of algorithms: worked numbers through the episode's judgement and its rows, and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from judge_server import serving
from rollout_support import Lines, make_runner
from shaping_support import Shop, episode, judged

from agentrl import Env, Reward, Task, Trajectory, reward
from agentrl.algorithms import load
from agentrl.algorithms.advantages import compute
from agentrl.algorithms.batch import Batch
from agentrl.config import load_config
from agentrl.errors import ConfigError, DefinitionError
from agentrl.events import EpisodeFinished
from agentrl.registry import find_env
from agentrl.rollout import Job, run_episodes, succeeded
from agentrl.scoring import score_episode, score_group
from agentrl.train.algorithm import plan
from agentrl.train.metrics import step_metrics
from agentrl.train.shaping import shape_of


@pytest.mark.parametrize(
    ("outcome", "steps", "comparator", "total"),
    [(1, [0.1, 0.2], ">=", 1.3), (-1, [0.1, 0.2, 0.5], ">=", -1), (0, [0.1], ">=", 0.1), (0, [0.1], ">", 0)],
)
def test_gra_counts_steps_behind_the_gate_alone(
    outcome: float, steps: list[float], comparator: str, total: float
) -> None:
    words = ["algorithm.name=gra", f'algorithm.shaping.options.comparator="{comparator}"']
    one = episode(outcome, steps)
    assert judged([one], *words, "algorithm.shaping.options.calls=0") == [pytest.approx(total)]
    assert one.unshaped == pytest.approx(outcome + sum(steps))
    assert one.turn_reward == (
        {i: pytest.approx(step) for i, step in enumerate(steps)} if total - outcome else {}
    )


def test_gra_pays_turns_for_calls_that_work() -> None:
    good, bad = episode(0, [0, 0], calls=2), episode(0, [0, 0], calls=2)
    bad.turns[1].calls[0].status = "timeout"
    assert judged([good, bad], "algorithm.name=gra") == pytest.approx([0.2, 0.0])


class Desk(Shop):
    """Three components and an expression."""

    success = "outcome"

    @reward
    def polite(self, episode: Trajectory) -> float:
        return 1.0

    @reward
    def brief(self, episode: Trajectory) -> float:
        return 1.0

    rewards = (0.5 * Shop.outcome + 0.25 * polite, brief)


def test_gra_takes_sums_apart_and_what_is_named_neither_high_nor_low_always_counts() -> None:
    words = ["algorithm.name=gra", "algorithm.shaping.options.calls=0"]
    assert judged([episode(-1)], *words, env=Desk()) == [pytest.approx(-0.5)]
    named = [*words, "algorithm.shaping.options.low=[polite, step]"]
    assert judged([episode(-1)], *named, env=Desk()) == [pytest.approx(0.5)]
    high = [*words, "algorithm.shaping.options.high=[polite, brief]"]
    assert judged([episode(-1, [0.5])], *high, env=Desk()) == [pytest.approx(1.25 - 0.5 + 0.5)]


def test_spears_bonus_for_calls_fades() -> None:
    words = ["algorithm.name=spear", "algorithm.replay=null"]
    at_50 = [episode(0, [0], calls=calls, progress=50 / 300) for calls in (0, 3, 12)]
    assert judged(at_50, *words, steps=301) == pytest.approx([0, 0.256066, 0.853553], abs=1e-6)
    assert judged([episode(1, [0], calls=5, progress=1.0)], *words, steps=301) == [pytest.approx(1)]
    assert [one.rewards["tool_bonus"] for one in at_50] == pytest.approx([0, 0.3, 1])
    assert not succeeded(Shop(), at_50[2])


def test_rlsps_effort() -> None:
    """8000 characters of thought, right and wrong; 2000 without an answer: without a judge, then C = 0."""

    def three() -> list[Trajectory]:
        made = [episode(outcome) for outcome in (1, 0, 0)]
        for one, characters in zip(made, (8000, 8000, 2000), strict=True):
            one.turns[0].reasoning, one.turns[0].text = "r" * characters, "4"
        made[2].status = "truncated"
        return made

    assert judged(three(), "algorithm.name=rlsp") == pytest.approx([0.5, -0.5, -2.5])
    assert judged(three(), "algorithm.name=rlsp", "algorithm.shaping.options.length=0") == [1, 0, -0.5]
    sampled = ["algorithm.shaping.options.measure=sampled", "algorithm.shaping.options.length=2"]
    assert judged([episode(1, [0] * 4)], "algorithm.name=rlsp", *sampled) == [pytest.approx(0.5)]
    silent = episode(0)
    silent.turns[0].text = ""
    assert judged([silent], "algorithm.name=rlsp") == [pytest.approx(-10.5)]


async def rewarded(one: Sequence[Trajectory], *words: str) -> list[float | None]:
    shape = shape_of(plan(load_config("env", list(words)).algorithm).shaping, Shop(), 10)
    terms = Shop().own_rewards()
    assert shape is not None
    for each in one:
        await score_episode(each, terms, shape(terms))
    await score_group(one, terms, shape(terms))
    return [each.reward for each in one]


async def test_rlsps_judge_counts_where_one_is_configured_and_half_where_it_fails() -> None:
    async def graded(answer: Any) -> list[float | None]:
        async with serving(answer) as endpoint:
            options = f"{{url: '{endpoint.url}', model: m, retries: 0}}"
            one = episode(1)
            one.turns[0].reasoning = "r" * 8000
            return await rewarded(
                [one], "algorithm.name=rlsp", f"algorithm.shaping.options.endpoint={options}"
            )

    assert await graded("Deep.\nSCORE: 7.5") == [pytest.approx(0.55)]
    assert await graded((500, {}, b"")) == [pytest.approx(0.8 * 0.5 + 0.2 * 0.5)]


def test_spo_pays_for_wins_and_advantages_are_the_wins_less_a_half() -> None:
    group = [episode(outcome) for outcome in (1, 0, 1, 0.5)]
    rewards = judged(group, "algorithm.name=spo")
    assert rewards == pytest.approx([2.5 / 3, 0, 2.5 / 3, 1 / 3])
    assert [succeeded(Shop(), one) for one in group] == [True, False, True, True]
    batch = Batch.of([[1]] * 4, [[value] for value in rewards], [0] * 4)
    advantages = compute(batch, load("spo")).advantages
    assert advantages[:, 0] == pytest.approx([value - 0.5 for value in rewards], abs=1e-6)


async def test_spos_judge_is_asked_in_both_orders() -> None:
    """One that prefers the first place is of no use; one that cannot tell counts a half."""
    for answer in ("BETTER: A", "I cannot say.", (500, {}, b"")):
        async with serving(answer) as endpoint:
            options = f"{{url: '{endpoint.url}', model: m, retries: 0}}"
            group = [episode(1), episode(0)]
            words = ["algorithm.name=spo", f"algorithm.shaping.options.endpoint={options}"]
            assert await rewarded(group, *words) == [0.5, 0.5]
            assert len(endpoint.requests) == 2
    async with serving("BETTER: A") as endpoint:
        options = f"{{url: '{endpoint.url}', model: m}}"
        words = ["algorithm.name=spo", f"algorithm.shaping.options.endpoint={options}",
                 "algorithm.shaping.options.both_orders=false"]  # fmt: skip
        assert await rewarded([episode(0), episode(1)], *words) == [1, 0]


@pytest.mark.parametrize(
    ("exact", "form", "cost", "total"), [(1, 0, 0.8, 0.88), (1, -1, 0.8, -1), (0, 0, 1, 0)]
)
def test_router_r1s_gate(exact: float, form: float, cost: float, total: float) -> None:
    class Route(Env):
        success = "exact"

        @reward(weight=0)
        def exact(self, episode: Trajectory) -> float:
            return exact

        @reward(weight=0)
        def form(self, episode: Trajectory) -> float:
            return form

        @reward(weight=0)
        def cost(self, episode: Trajectory) -> float:
            return cost

        @reward
        def route(self, episode: Trajectory) -> float:
            return 7.0

    words = ["algorithm.name=router_r1", "algorithm.shaping.options.share=0.6"]
    assert judged([episode(0)], *words, env=Route()) == [pytest.approx(total)]


def test_the_route_environment_has_what_router_r1_is_made_of() -> None:
    shape = shape_of(plan(load_config("route", ["algorithm.name=router_r1"]).algorithm).shaping,
                     find_env("route"), 4)  # fmt: skip
    assert shape is not None and "cost" in str(shape(find_env("route").own_rewards())[0])


@pytest.mark.parametrize(
    ("parts", "gated", "total"), [((1, 1, 0), False, 0.5), ((0, 1, 1), False, 0.9), ((0, 1, 1), True, 0)]
)
def test_crafts_rules(parts: tuple[int, int, int], gated: bool, total: float) -> None:
    def component(name: str, value: float) -> Any:
        return Reward(lambda episode: value, name, weight=0)

    env = Env(
        [], rewards=[component(n, v) for n, v in zip(("format", "type", "parameters"), parts, strict=True)]
    )
    words = ["algorithm.name=craft", "algorithm.curriculum=null",
             f"algorithm.shaping.options.gate_on_format={str(gated).lower()}"]  # fmt: skip
    assert judged([episode(0)], *words, env=env) == [pytest.approx(total)]


class Spoke(Env):
    """Pays 1 to the first episode of a task, and counts that as success."""

    @reward
    def first(self, episode: Trajectory) -> float:
        return float(episode.id.endswith("0"))


async def test_a_runner_trains_on_shaped_rewards_and_counts_success_by_the_environment() -> None:
    env = Spoke()
    shape = shape_of(plan(load_config("env", ["algorithm.name=spo"]).algorithm).shaping, env, 4)
    runner, recorder = make_runner(env, Lines("done"), shape=shape)
    plain, _ = make_runner(env, Lines("done"))
    ended: dict[str, Trajectory] = {}
    todo = [Job(Task("Go.", id="t"), f"t-{place}", group="t", group_size=3) for place in range(3)]

    def keep(job: Job, one: Trajectory) -> None:
        ended[one.id] = one

    await run_episodes(runner, todo, concurrency=1, on_result=keep)
    assert {name: one.reward for name, one in ended.items()} == {"t-0": 1.0, "t-1": 0.25, "t-2": 0.25}
    told = {event.episode: event for event in recorder.events if isinstance(event, EpisodeFinished)}
    assert [told[name].success for name in sorted(told)] == [True, False, False]
    held_out = await plain.run(Task("Go."), episode_id="e-0")
    assert (held_out.reward, held_out.unshaped, held_out.rewards) == (1.0, None, {"first": 1.0})


def test_a_step_tells_what_the_rewards_were_before_they_were_shaped() -> None:
    from agentrl.doctor import Row

    summary = {"reward": 0.25, "success": False, "calls": 0, "call_errors": 0, "turns": 1, "tokens": 1,
               "status": "finished", "generate_seconds": 0, "tool_seconds": 0, "interrupted": 0,
               "prompt_tokens": 0, "cached_tokens": 0, "row_tokens": 0, "rewards": {}}  # fmt: skip
    shaped = step_metrics([Row("t_0_0", {**summary, "unshaped": 1.0})], {}, {}, expected=1)
    assert (shaped["reward/mean"], shaped["reward/unshaped"]) == (0.25, 1.0)
    assert "reward/unshaped" not in step_metrics([Row("t_0_0", summary)], {}, {}, expected=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["algorithm.name=gra", "algorithm.shaping.name=gatd"], "Did you mean 'gated'"),
        (["algorithm.name=gra", "algorithm.shaping.options.thresold=1"], r"options\.thresold\. Did you mean"),
        (["algorithm.name=gra", "algorithm.shaping.options.comparator=x"], r"comparator='x'"),
        (["algorithm.name=gra", "algorithm.shaping.options.high=[right]"], "no reward 'right'"),
        (["algorithm.name=gra", "algorithm.shaping.options={calls: 0, low: []}"], "low priority"),
        (["algorithm.name=router_r1"], "no form, cost, exact"),
        (["algorithm.name=craft", "algorithm.curriculum=null"], "no format, type, parameters"),
        (["algorithm.name=spo", "algorithm.shaping.options.endpoint={url: x}"], "model"),
        (["algorithm.name=rlsp", "algorithm.shaping.options.endpoint={url: x, model: m}"], "http://"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_starts(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        shape_of(plan(load_config("env", words).algorithm).shaping, Shop(), 4)


def test_an_expression_that_cannot_be_taken_apart_and_a_name_that_is_taken_are_refused() -> None:
    class Mixed(Shop):
        rewards = (Shop.outcome * Desk.polite,)

    class Taken(Shop):
        @reward
        def tool_bonus(self, episode: Trajectory) -> float:
            return 0.0

    with pytest.raises(ConfigError, match="of high priority and polite of low"):
        shape_of(plan(load_config("env", ["algorithm.name=gra"]).algorithm).shaping, Mixed(), 4)
    words = ["algorithm.name=spear", "algorithm.replay=null"]
    with pytest.raises(DefinitionError, match="tool_bonus"):
        shape_of(plan(load_config("env", words).algorithm).shaping, Taken(), 4)

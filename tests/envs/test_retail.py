"""The retail desk: its rules, its customers, scripted and played by a model, in the real loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_server import serving
from rollout_support import Lines, make_chat, make_runner, write_call

from agentrl import ConfigError, Task, ToolError, Trajectory
from agentrl.config import load_config
from agentrl.envs.retail import Retail, shop
from agentrl.envs.retail.goals import PLANS
from agentrl.envs.users import END, agrees
from agentrl.registry import find_env, source_folder
from agentrl.rollout import ScriptedPolicy

LIMITS = {"max_turns": 60, "max_observation_tokens": 3000, "max_trajectory_tokens": 40_000, "retries": 0,
          "tool_seconds": 60.0, "episode_seconds": 110.0}  # fmt: skip


async def play(env: Retail, policy: Any, task: Task, **limits: Any) -> Trajectory:
    runner, _ = make_runner(env, policy, **{**LIMITS, **limits})
    return await runner.run(task, episode_id="a")


def first(env: Retail, tool: str, *, refused: bool = False) -> tuple[Task, dict[str, Any]]:
    """A task whose first goal is this one."""
    for task in env.tasks("train"):
        goal = task.metadata["goals"][0]
        if (goal["tool"], goal["refused"]) == (tool, refused):
            return task, goal
    raise AssertionError(f"no task begins with {tool}")


def find(task: Task) -> str:
    return write_call("find_user", **task.metadata["identity"])


@pytest.mark.parametrize("difficulty", PLANS)
async def test_the_expert_solves_every_kind(difficulty):
    env = Retail(difficulty, size=80)
    kinds = set()
    for task in env.tasks("test")[: 8 // difficulty]:
        episode = await play(env, ScriptedPolicy(make_chat()), task)
        assert (episode.status, episode.reward) == ("finished", 1.0), (task, episode.metadata)
        kinds |= {(goal["tool"], goal["refused"]) for goal in task.metadata["goals"]}
    assert len(kinds) >= {1: 1, 2: 3, 3: 4}[difficulty]


@pytest.mark.parametrize("difficulty", PLANS)
async def test_neither_the_careless_nor_the_idle_solve_anything(difficulty):
    env = Retail(difficulty, size=40, expert_rate=0.0)
    for task in env.tasks("test")[:2]:
        careless = await play(env, ScriptedPolicy(make_chat()), task)
        assert careless.reward == 0.0 and careless.metadata["breaches"]
        idle = await play(env, Lines(""), task)
        assert (idle.status, idle.reward, len(idle.turns)) == ("finished", 0.0, env.patience + 1)


async def test_rules_that_are_broken_cost_the_episode():
    env = Retail(1, size=40)
    task, goal = first(env, "cancel_order")
    order = goal["arguments"]["order_id"]
    cancel, ask = write_call("cancel_order", order_id=order), f"Cancel order {order}?"
    other = next(number for number in env._shop(task.metadata["shop"])["orders"] if number != order)
    ways: dict[tuple[str, ...], str | None] = {
        (find(task), ask, cancel, "Done."): None,
        (find(task), cancel, "Done."): "cancel_order without the customer's yes",
        (find(task), "Shall I?", cancel, "Done."): "cancel_order without the customer's yes",
        (
            find(task),
            f"Cancel {order} and {other}?",
            cancel,
            "Done.",
        ): "cancel_order without the customer's yes",
        (ask, cancel, "Done."): f"order {order} is not of the customer that was found",
        (find(task), ask, cancel, cancel, "Done."): "cancel_order on an order that is cancelled",
    }
    for lines, broken in ways.items():
        episode = await play(env, Lines(*lines), task)
        assert episode.rewards["reached"] == 1.0, lines
        assert episode.reward == float(broken is None) and (
            broken is None or broken in episode.metadata["breaches"]
        )
    astray = await play(
        env, Lines(find(task), ask, cancel, write_call("cancel_order", order_id=other), "Done."), task
    )
    assert astray.reward == 0.0 and astray.metadata["collateral"] == [f"orders.{other}.status"]


async def test_customers_are_not_looked_up_by_what_they_have_not_said():
    env = Retail(2, size=40)
    task, _ = first(env, "change_address")
    episode = await play(env, Lines(find(task), ""), task)
    assert episode.metadata["breaches"] == ["found a user by what the customer had not said"]
    polite = await play(env, Lines("Who are you?", find(task), ""), task)
    assert polite.metadata["breaches"] == []


async def test_what_the_rules_forbid_is_declined():
    env = Retail(3, size=60)
    task, goal = first(env, "cancel_order", refused=True)
    order = goal["arguments"]["order_id"]
    before = ("Your name and postcode, or e-mail?", find(task), f"Cancel {order}?")
    obedient = await play(env, Lines(*before, write_call("cancel_order", order_id=order), ""), task)
    said = [message["content"] for message in obedient.messages if message["role"] == "user"]
    assert said[2].startswith("No.")  # it does not say yes to what cannot be
    assert obedient.reward == 0.0 and any(
        "cancel_order on an order" in each for each in obedient.metadata["breaches"]
    )
    firm = await play(env, Lines(*before, "I cannot cancel it.", ""), task)
    said = [message["content"] for message in firm.messages if message["role"] == "user"]
    assert said[3] == f"Thanks. {task.metadata['goals'][1]['say']}" and firm.reward == 0.0


async def test_goals_are_revealed_one_after_the_other():
    env = Retail(3, size=40)
    task = next(task for task in env.tasks("train") if len(task.metadata["goals"]) == 3)
    episode = await play(env, ScriptedPolicy(make_chat()), task)
    said = " ".join(str(message["content"]) for message in episode.messages if message["role"] == "user")
    order = [said.index(goal["say"]) for goal in task.metadata["goals"]]
    assert order == sorted(order) and all(
        goal["say"] not in task.prompt for goal in task.metadata["goals"][1:]
    )


async def test_questions_have_to_be_answered():
    env = Retail(2, size=80)
    task = next(task for task in env.tasks("train") if task.metadata["goals"][0]["told"])
    question, change = task.metadata["goals"]
    asked = f"Return {' '.join(change['mentions'])}?"
    done = (asked, write_call("return_item", **change["arguments"]), "Done.")
    told = await play(env, Lines("Who are you?", find(task), question["told"], *done), task)
    assert told.reward == 1.0
    for text in ("", f"{question['told']}, 1.00, 2.00 or 3.00"):
        silent = await play(env, Lines("Who are you?", find(task), text, *done), task)
        assert silent.reward == 0.0 and silent.rewards["told"] == 0.0


def test_splits_are_repeatable_and_differ():
    env, again = Retail(size=40), Retail(size=40)
    train, test = env.tasks("train"), env.tasks("test")
    assert (train, test) == (again.tasks("train"), again.tasks("test")) and (len(train), len(test)) == (
        40,
        10,
    )
    assert not {task.metadata["shop"] for task in train} & {task.metadata["shop"] for task in test}
    assert Retail(size=40, seed=1).tasks("test") != test
    assert json.loads(json.dumps(train[0].to_dict())) == train[0].to_dict()


changing = st.sampled_from(["cancel_order", "change_address", "return_item", "exchange_item"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 19), st.lists(st.tuples(changing, st.randoms(use_true_random=False)), max_size=6))
async def test_changes_without_a_talk_never_solve_a_task(number, calls):
    env = Retail(2, size=20).spawn()
    assert isinstance(env, Retail)
    task = env.tasks("train")[number]
    await env.reset(task)
    for what, rng in calls:
        order = rng.choice(sorted(env.state["orders"]))
        item = rng.choice(sorted(env.state["orders"][order]["items"]))
        new = rng.choice(sorted(shop.numbers(env.state) - set(env.state["orders"])))
        made = {"order_id": order, "address": "1 Elm", "item_id": item, "new_item_id": new}
        names = {"cancel_order": 1, "change_address": 2}.get(what)
        keys = (
            list(made)[:names]
            if names
            else ["order_id", "item_id", "new_item_id"][: 2 + (what == "exchange_item")]
        )
        assert await getattr(env, what)(**{key: made[key] for key in keys}) == "Done."
    assert not env.solved(Trajectory(task, "e"))


async def test_what_does_not_exist_is_told():
    env = Retail(2, size=8).spawn()
    assert isinstance(env, Retail)
    await env.reset(env.tasks("train")[0])
    order = next(iter(env.state["orders"]))
    for wrong in (
        lambda: env.find_user(), lambda: env.find_user(name="Ada Byron"), lambda: env.find_user(email="x@y"),
        lambda: env.get_order("1"), lambda: env.get_product("yacht"), lambda: env.return_item(order, "1"),
        lambda: env.exchange_item(order, next(iter(env.state["orders"][order]["items"])), "1"),
    ):  # fmt: skip
        with pytest.raises(ToolError):
            await wrong()
    assert env.start == shop_facts(env)


def shop_facts(env: Retail) -> Any:
    from agentrl.rewards.state import facts

    return facts(env.state)


@pytest.mark.parametrize(
    "options",
    [{"difficulty": 0}, {"size": 1}, {"patience": -1}, {"expert_rate": 1.5}, {"user": {"url": "http://x/v1"}},
     {"user": {"url": "x", "model": "m"}}, {"user": {"url": "http://x/v1", "model": "m", "speed": 3}}],
)  # fmt: skip
def test_options_that_do_not_fit(options):
    with pytest.raises(ConfigError):
        find_env("agentrl.envs.retail:Retail", options)
    with pytest.raises(ConfigError, match="'train' and 'test'"):
        Retail().tasks("dev")


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_train_yaml_fits_the_configuration_and_the_environment(preset):
    folder = source_folder(Retail())
    config = load_config("retail", [f"preset={preset}"], folder=folder)
    assert find_env("agentrl.envs.retail:Retail", config.environment_options)
    assert Path(folder, "README.md").is_file()


# ---- a model in the customer's part -----------------------------------------------------------------


def simulated(url: str, **changes: Any) -> Retail:
    user = {"url": url, "model": "shopper", "wait_seconds": 0.001, "seconds": 30.0, "retries": 1, **changes}
    return Retail(1, size=40, user=user)


async def test_a_model_plays_the_customer_and_the_same_talk_is_asked_once():
    async with serving("Yes, please.", f"Thank you. {END}") as server:
        env = simulated(server.url)
        task, goal = first(env, "cancel_order")
        order = goal["arguments"]["order_id"]
        lines = (find(task), f"Cancel {order}?", write_call("cancel_order", order_id=order), "Done.")
        episodes = [await play(env, Lines(*lines), task) for _ in range(2)]
        assert [episode.reward for episode in episodes] == [1.0, 1.0], episodes[0].metadata
        assert episodes[0].turns[-1].text == "Done." and len(server.requests) == 2
        system, opening, asked = server.requests[0]["messages"]
        assert task.metadata["words"] in system["content"] and goal["say"] in system["content"]
        assert opening == {"role": "assistant", "content": task.prompt}
        assert asked == {"role": "user", "content": f"Cancel {order}?"}


@pytest.mark.parametrize("silence", ["hang", "drop", (503, {}, b"gone"), (200, {}, b"no json")])
async def test_a_customer_that_stops_answering_voids_its_own_episode(silence):
    async with serving("Yes.", silence) as server:
        env = simulated(server.url, seconds=0.5)
        task, goal = first(env, "cancel_order")
        order = goal["arguments"]["order_id"]
        lines = (f"Cancel {order}?", "And now?")
        episode = await play(env, Lines(*lines), task)
        assert (episode.status, episode.reward) == ("void", None)
        assert "The simulated user does not answer" in episode.reason and len(server.requests) == 3
        assert (
            await play(env, Lines(f"Cancel {order}?", find(task)), task, max_turns=2)
        ).status == "truncated"


async def test_a_customer_that_answers_late_is_asked_again_and_a_wrong_key_stops_the_run():
    async with serving((503, {}, b"busy"), END) as server:
        env = simulated(server.url)
        task, _ = first(env, "cancel_order")
        episode = await play(env, Lines("Hello?"), task)
        assert (episode.status, episode.reward) == ("finished", 0.0) and len(server.requests) == 2
    async with serving((401, {}, b"who?")) as server:
        with pytest.raises(ConfigError, match="401"):
            await play(simulated(server.url), Lines("Hello?"), task)


@pytest.mark.parametrize(
    ("said", "yes"),
    [("Yes.", True), ("yes, do it", True), (" OK!", True), ("No, yes would be wrong", False),
     ("Yesterday", False),
     ("I say yes", False), ("", False)],
)  # fmt: skip
def test_a_yes_is_the_first_word(said, yes):
    assert agrees(said) is yes

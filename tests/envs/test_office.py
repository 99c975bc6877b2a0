"""The office: requests, tools, and a judgement by what is left behind, in the real loop."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_support import Lines, make_chat, make_runner, write_call

from agentrl import ConfigError, Task, ToolError, Trajectory
from agentrl.config import load_config
from agentrl.envs.office import Office, world
from agentrl.envs.office.requests import FORMS, PLANS, draw
from agentrl.registry import find_env, source_folder
from agentrl.rewards.state import changes, compare, facts
from agentrl.rollout import ScriptedPolicy

LIMITS = {"max_turns": 60, "max_observation_tokens": 3000, "max_trajectory_tokens": 40_000, "retries": 0,
          "tool_seconds": 60.0, "episode_seconds": 600.0}  # fmt: skip


async def play(env: Office, policy: Any, task: Task) -> Trajectory:
    runner, _ = make_runner(env, policy, **LIMITS)
    return await runner.run(task, episode_id="a")


def office(seed: int = 0) -> world.State:
    return world.make(random.Random(seed), 8, 6, 8)


@pytest.mark.parametrize("difficulty", PLANS)
async def test_the_expert_solves_it_and_the_idle_and_the_hasty_do_not(difficulty):
    env = Office(difficulty, size=40)
    for task in env.tasks("test")[: 6 // difficulty]:
        episode = await play(env, ScriptedPolicy(make_chat()), task)
        assert (episode.status, episode.reward) == ("finished", 1.0), (task, episode.metadata)
        assert episode.rewards["share"] == 1.0
        idle = await play(env, Lines(""), task)
        assert (idle.status, idle.reward, len(idle.turns)) == (
            "finished",
            0.0,
            len(task.metadata["requests"]),
        )
    task = env.tasks("test")[0]
    steps, looks = task.metadata["steps"][0], task.metadata["looks"][0]
    assert all(name in {tool.name for tool in env.own_tools()} for name, _ in steps) and looks


async def test_the_easiest_calendar_has_dates_that_no_hour_can_be_taken_for():
    env = Office(1, size=40)
    assert not {int(day) for day in world.DATES} & set(world.HOURS)
    for task in env.tasks("test"):
        [_, (_, arguments)] = task.metadata["steps"][0]
        assert arguments["day"] in world.DATES and f" to {arguments['day']} at " in task.prompt
    episode = await play(env, Lines(write_call("events", day="Mon"), "Done."), env.tasks("test")[0])
    assert episode.calls[0].status == "error" and "there are 21, 22" in episode.calls[0].observation.text


async def test_requests_follow_each_other_and_anything_else_spoils_it():
    env = Office(3, size=40)
    task = env.tasks("train")[0]
    lines: list[str] = []
    for steps in task.metadata["steps"]:
        lines += [*(write_call(name, **arguments) for name, arguments in steps), "Done."]
    solved = await play(env, Lines(*lines), task)
    said = [message["content"] for message in solved.messages if message["role"] == "user"]
    assert said == task.metadata["requests"] and solved.reward == 1.0
    beside = write_call("send", to="Hal", text="By the way.")
    spoilt = await play(env, Lines(*lines[:-1], beside, lines[-1]), task)
    assert (spoilt.reward, spoilt.rewards["share"]) == (0.0, 0.0)
    assert spoilt.metadata["collateral"] == ["sent.Hal: By the way."]
    twice = await play(env, Lines(*[line for line in lines for _ in range(1 + ("move_event" in line))]), task)
    assert twice.reward == 1.0  # to move it there again changes nothing


async def test_work_that_is_left_undone_is_missing():
    env = Office(2, size=80)
    told = next(task for task in env.tasks("train") if sum(map(len, task.metadata["steps"])) >= 5
                and "send everybody" in task.prompt)  # fmt: skip
    first, *_ = [
        [write_call(name, **arguments) for name, arguments in steps] for steps in told.metadata["steps"]
    ]
    episode = await play(env, Lines(*first, "Done."), told)
    assert episode.reward == 0.0 and 0 < episode.rewards["share"] < 1
    assert episode.metadata["missing"] and not episode.metadata["collateral"]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.integers(0, 10_000))
def test_every_form_is_met_by_its_own_calls_and_by_no_part_of_them(form, seed):
    start, end, work = office(seed), office(seed), office(seed)
    rng = random.Random(seed)
    if all(FORMS[form](office(seed), random.Random(n)) is None for n in range(200)):
        return  # this office offers none
    [request] = draw(end, [form], 1, rng)
    wanted = changes(facts(world.view(start)), facts(world.view(end)))
    assert wanted
    for name, arguments in request.looks:
        assert world.ACTIONS[name](work, **arguments)
    assert work == start  # looking changes nothing
    for name, arguments in request.does:
        assert not compare(facts(world.view(start)), facts(world.view(work)), wanted).reached
        world.ACTIONS[name](work, **arguments)
    assert compare(facts(world.view(start)), facts(world.view(work)), wanted).reached


def test_order_and_numbers_of_what_was_added_do_not_count():
    one, other = office(), office()
    for name in ("Ada", "Ben"):
        world.send(one, name, "Hello  there.")
    for name in ("Ben", "Ada"):
        world.send(other, name, "Hello there.")
    world.add_event(one, "talk", "Mon", 9, "Ada, Ben")
    world.add_event(other, "spare", "Mon", 9, "Ada")
    world.delete_event(other, other["added"][0])
    world.add_event(other, "Talk", "Mon", 9, "Ben,Ada")
    assert world.view(one) == world.view(other) != world.view(office())


def test_what_cannot_be_done_is_told_and_changes_nothing():
    state = office()
    event, path = next(iter(state["events"])), next(iter(state["files"]))
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("events", {"day": "Sun"}), ("move_event", {"event_id": "x", "day": "Mon", "hour": 9}),
        ("move_event", {"event_id": event, "day": "Mon", "hour": 30}), ("delete_event", {"event_id": "1"}),
        ("busy", {"name": "Zoe", "day": "Mon"}), ("read_file", {"path": "none"}),
        ("inbox", {"sender": "Zoe"}),
        ("move_file", {"path": path, "to": path}), ("write_file", {"path": "a", "text": ""}),
        ("send", {"to": "Zoe", "text": "Hi"}), ("send", {"to": "Ada", "text": "x" * 9000}),
        ("add_event", {"title": "t", "day": "Mon", "hour": 9, "people": "Zoe"}),
    ]  # fmt: skip
    for name, arguments in wrong:
        with pytest.raises(ToolError):
            world.ACTIONS[name](state, **arguments)
    assert world.view(state) == world.view(office())


def test_there_is_only_so_much_room():
    state = office()
    for number in range(world.MOST_THINGS):
        world.send(state, "Ada", str(number))
    with pytest.raises(ToolError, match="no more room"):
        world.send(state, "Ada", "one more")


def test_splits_are_repeatable_and_differ():
    env, again = Office(size=40), Office(size=40)
    train, test = env.tasks("train"), env.tasks("test")
    assert (train, test) == (again.tasks("train"), again.tasks("test")) and (len(train), len(test)) == (
        40,
        10,
    )
    assert not {task.metadata["office"] for task in train} & {task.metadata["office"] for task in test}
    assert json.loads(json.dumps(train[0].to_dict())) == train[0].to_dict()


@pytest.mark.parametrize("options", [{"difficulty": 0}, {"size": 1}, {"expert_rate": 1.5}, {"sise": 8}])
def test_options_that_do_not_fit(options):
    with pytest.raises(ConfigError):
        find_env("agentrl.envs.office:Office", options)
    with pytest.raises(ConfigError, match="'train' and 'test'"):
        Office().tasks("dev")


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_train_yaml_fits_the_configuration_and_the_environment(preset):
    folder = source_folder(Office())
    config = load_config("office", [f"preset={preset}"], folder=folder)
    assert find_env("agentrl.envs.office:Office", config.environment_options)
    assert Path(folder, "README.md").is_file()

"""Gymnasium environments in the real loop: steps, seeds, actions, and steps that hang."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium
import pytest
from gymnasium import spaces
from rollout_support import Lines, make_chat, make_runner, write_call

from agentrl import ConfigError, DefinitionError, Expert, ToolContext, ToolError, call, say
from agentrl.envs.gym import Gym
from agentrl.registry import find_env
from agentrl.rollout import ScriptedPolicy

made: list[Corridor] = []
let_go = threading.Event()


class Corridor(gymnasium.Env):
    """Walk to the door, which is as far away as the seed decides."""

    action_space = spaces.Text(max_length=8, charset="abcdefghijklmnopqrstuvwxyz ")
    observation_space = spaces.Text(max_length=40)

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"]}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.closed = False
        made.append(self)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 6))
        return f"The door is {self.left} steps away.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action == "sleep":
            assert let_go.wait(60)
        self.left -= action == "walk"
        there = self.left == 0
        return "You are there." if there else f"{self.left} to go.", float(there), there, False, {}

    def render(self) -> None:
        return None

    def close(self) -> None:
        self.closed = True


class Walker(Gym):
    def expert(self, task: Any, rng: Any) -> Expert:
        while True:
            [seen] = yield call("act", action="walk")
            if "there" in seen:
                yield say("Arrived.")


@pytest.fixture(autouse=True)
def corridor() -> Iterator[None]:
    gymnasium.register("Corridor-v0", entry_point=Corridor, disable_env_checker=True)
    made.clear()
    let_go.clear()
    yield
    let_go.set()
    del gymnasium.registry["Corridor-v0"]


async def test_the_expert_solves_every_task_and_instances_are_closed() -> None:
    env = Walker("Corridor-v0", size=16)
    runner, _ = make_runner(env, ScriptedPolicy(make_chat()))
    episodes = [await runner.run(task, episode_id=task.id) for task in env.tasks("train")[:5]]
    assert [episode.reward for episode in episodes] == [1.0] * 5
    assert len(made) == 5 and all(each.closed for each in made)
    opening = episodes[0].messages[0]["content"]
    assert opening.startswith("Act with the tool act") and "The door is" in opening
    assert len({episode.messages[0]["content"] for episode in episodes}) > 1
    last = episodes[0].turns[-1]
    assert last.rewards == {"score": 1.0} and last.calls[0].observation.done


async def test_doing_nothing_scores_nothing_and_a_task_is_repeatable() -> None:
    env = Gym("Corridor-v0", size=16)
    task = env.tasks("test")[0]
    runner, _ = make_runner(env, Lines("No."))
    first, again = [await runner.run(task, episode_id=name) for name in "ab"]
    assert first.reward == 0.0 and first.messages == again.messages
    assert not {t.metadata["seed"] for t in env.tasks("train")} & {
        t.metadata["seed"] for t in env.tasks("test")
    }


async def test_a_step_that_hangs_harms_no_other_episode() -> None:
    env = Gym("Corridor-v0", size=16)
    task = env.tasks("train")[0]
    lines = [write_call("act", action="sleep"), write_call("act", action="walk"), "Well."]
    runner, _ = make_runner(env, Lines(*lines), tool_seconds=3.0)
    stuck = await runner.run(task, episode_id="stuck")
    assert [each.status for each in stuck.calls] == ["timeout", "error"] and stuck.status == "finished"
    assert "step before has not come to an end" in stuck.calls[1].observation.text
    assert not made[0].closed  # it is still in its step
    walker, _ = make_runner(Walker("Corridor-v0", size=16), ScriptedPolicy(make_chat()))
    assert (await walker.run(task, episode_id="free")).reward == 1.0


async def test_text_that_does_not_fit_is_told_to_the_model() -> None:
    env = Gym("Corridor-v0").spawn()
    await env.reset(env.tasks("train")[0])  # type: ignore[index]
    act = env.own_tools()[0].spawn(ToolContext())
    with pytest.raises(ToolError, match=r"1 to 8 of the characters .*'WALK!' does not fit"):
        await act.invoke({"action": "WALK!"})
    await env.close()


async def test_discrete_actions_by_name_and_a_rendering() -> None:
    options = {"id": "FrozenLake-v1", "kwargs": {"is_slippery": False}, "observe": "render", "max_steps": 2}
    env = find_env("agentrl.envs.gym:Gym", {**options, "actions": ["left", "down", "right", "up"]}).spawn()
    task: Any = next(iter(env.tasks("test")))
    assert "Actions: left, down, right, up." in task.prompt
    await env.reset(task)
    assert "[S]FFF\nFHFH" in str(env.messages(task)[-1]["content"])
    act = env.own_tools()[0].spawn(ToolContext())
    assert "S[F]FF" in (await act.invoke({"action": "Right"})).text
    with pytest.raises(ToolError, match="no action 'dwn'. Did you mean 'down'. The actions are: left, down"):
        await act.invoke({"action": "dwn"})
    fallen = await act.invoke({"action": "down"})
    assert fallen.done and fallen.metadata == {"reward": 0.0, "terminated": True}
    await env.close()


async def test_numbers_are_actions_and_arrays_are_shown_as_json() -> None:
    env = Gym("CartPole-v1").spawn()
    await env.reset(env.tasks("train")[0])  # type: ignore[index]
    act = env.own_tools()[0].spawn(ToolContext())
    seen = await act.invoke({"action": "1"})
    assert seen.text.startswith("[") and seen.text.count(",") == 3 and seen.metadata["reward"] == 1.0
    with pytest.raises(ToolError, match="The actions are: 0, 1"):
        await act.invoke({"action": "2"})
    await env.close()


async def test_actions_without_words() -> None:
    env = Gym("Pendulum-v1").spawn()
    await env.reset(env.tasks("train")[0])  # type: ignore[index]
    with pytest.raises(DefinitionError, match=r"Pendulum-v1 .* subclass of Gym with to_action"):
        await env.own_tools()[0].spawn(ToolContext()).invoke({"action": "1"})
    await env.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"id": "Coridor-v0"}, "cannot make id='Coridor-v0'.*"),
        ({"id": "Corridor-v0", "kwargs": {"length": 3}}, "unexpected keyword argument 'length'"),
        ({"id": "Corridor-v0", "observe": "render"}, "renders no text"),
    ],
)
async def test_an_environment_that_cannot_be_made_stops_the_run(options: Any, words: str) -> None:
    env = Gym(**options)
    runner, _ = make_runner(env, Lines("No."))
    with pytest.raises(ConfigError, match=words):
        await runner.run(env.tasks("train")[0], episode_id="e")


@pytest.mark.parametrize("options", [{"observe": "pixels"}, {"actions": "left"}, {"size": 2}, {"seed": -1}])
def test_options_that_do_not_fit(options: Any) -> None:
    with pytest.raises(ConfigError):
        Gym("Corridor-v0", **options)

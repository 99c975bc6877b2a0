"""TextWorld's games: made from seeds, played in the sandbox by the real loop; and what goes wrong there."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from rollout_support import Lines, make_chat, make_runner, write_call

from agentrl import ConfigError, Task, Trajectory, tool
from agentrl.config import load_config
from agentrl.envs.textworld import TextWorld
from agentrl.envs.textworld import games as made
from agentrl.envs.textworld.games import SHAPES, Games
from agentrl.registry import find_env, source_folder
from agentrl.rollout import ScriptedPolicy
from agentrl.sandbox import NamespaceSandbox

LIMITS = {"max_turns": 20, "tool_seconds": 60.0, "episode_seconds": 600.0, "max_observation_tokens": 3000,
          "max_trajectory_tokens": 20_000, "retries": 0}  # fmt: skip
in_the_sandbox = pytest.mark.asyncio(loop_scope="module")
pytestmark = pytest.mark.timeout(600)  # games are made: seconds of a processor of which there may be little


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[NamespaceSandbox]:
    async with NamespaceSandbox() as opened:
        yield opened


async def play(env: TextWorld, policy: Any, sandbox: Any, task: Task, **limits: Any) -> Trajectory:
    runner, _ = make_runner(env, policy, sandbox=sandbox, **{**LIMITS, **limits})
    return await runner.run(task, episode_id="a")


@in_the_sandbox
@pytest.mark.parametrize(("quest", "difficulty"), [("any", 1), ("any", 2), ("any", 3), ("coin", 1)])
async def test_the_expert_wins_and_idlers_do_not(quest, difficulty, sandbox):
    env = TextWorld(difficulty, size=8, quest=quest)
    task = env.tasks("test")[0]
    won = await play(env, ScriptedPolicy(make_chat()), sandbox, task)
    assert (won.status, won.reward) == ("finished", 1.0) and won.calls[-1].observation.metadata["won"]
    assert len(won.calls) == SHAPES[quest][difficulty].steps and all(turn.rewards for turn in won.turns)
    opening = str(won.messages[0]["content"])
    assert opening.startswith("Play with act") and "-= " in opening and "$$" not in opening
    idle = await play(env, Lines(write_call("act", command="look"), "Done."), sandbox, task)
    assert (idle.status, idle.reward) == ("finished", 0.0)
    assert idle.messages[0] == won.messages[0]
    shy = TextWorld(difficulty, size=8, expert_rate=0.0, quest=quest)
    assert (await play(shy, ScriptedPolicy(make_chat()), sandbox, task)).reward == 0.0


@in_the_sandbox
async def test_what_is_no_command_of_the_story_is_refused(sandbox):
    env = TextWorld(1, size=8)
    odd = [
        "save",
        "Restore",
        "quit",
        "undo",
        "tw-print max_score",
        "*** The End ***",
        "x" * 200,
        "look. save",
        "",
    ]
    lines = [write_call("act", command=command) for command in odd]
    end = [write_call("act", command="say the end"), write_call("act", command="dance"), "Done."]
    episode = await play(env, Lines(*lines, *end), sandbox, env.tasks("test")[0])
    assert [call.status for call in episode.calls] == ["error"] * len(odd) + ["ok", "ok"], episode.reason
    assert episode.reward == 0.0
    assert "verb" in episode.calls[-1].observation.text


class Mortal(TextWorld):
    """Its game can be made to die."""

    @tool
    async def die(self) -> str:
        """End the interpreter under the game."""
        return await self._cell("import os; os._exit(3)")


@in_the_sandbox
async def test_a_game_that_dies_voids_its_own_episode(sandbox):
    env = Mortal(1, size=8)
    episode = await play(env, Lines(write_call("die"), "Done."), sandbox, env.tasks("test")[0])
    assert (episode.status, episode.reward) == ("void", None)
    assert "The game failed in its sandbox" in episode.reason


@in_the_sandbox
async def test_games_that_cannot_be_made_void_the_episode(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "make.py"
    broken.write_text("raise SystemExit('no space left')")
    monkeypatch.setattr(made, "MAKER", broken)
    env = TextWorld(1, size=8)
    episode = await play(env, Lines("Done."), sandbox, env.tasks("test")[0])
    assert episode.status == "void" and "no space left" in episode.reason
    assert not list(tmp_path.glob("agentrl/textworld/*"))
    broken.write_text("import time; time.sleep(3600)")
    monkeypatch.setattr(made, "MAKE_SECONDS", 0.5)
    assert "in 0.5 s" in (await play(env, Lines("Done."), sandbox, env.tasks("test")[0])).reason


async def test_a_seed_has_one_game(tmp_path, monkeypatch):
    kept = await Games(SHAPES["any"][1]).get(3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again = await Games(SHAPES["any"][1]).get(3)
    assert (again.objective, again.walkthrough) == (kept.objective, kept.walkthrough)
    assert [place.name.startswith("making-") for place in tmp_path.glob("agentrl/textworld/*")] == [False]


def test_splits_are_disjoint_and_repeatable():
    env = TextWorld(size=40)
    seeds = [{task.metadata["seed"] for task in env.tasks(split)} for split in ("train", "test")]
    assert [len(each) for each in seeds] == [40, 10] and not seeds[0] & seeds[1]
    assert env.tasks("test") == TextWorld(size=40).tasks("test")


@pytest.mark.parametrize(
    "options", [{"difficulty": 4}, {"size": 2}, {"seed": -1}, {"expert_rate": 2}, {"quest": "key"}]
)
def test_options_that_do_not_fit(options):
    with pytest.raises(ConfigError):
        find_env("agentrl.envs.textworld:TextWorld", options)


def test_without_textworld_the_way_to_it_is_told(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match=r"agentrl\[textworld\]"):
        TextWorld()


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_train_yaml_fits_the_configuration_and_the_environment(preset):
    folder = source_folder(TextWorld())
    config = load_config("textworld", [f"preset={preset}"], folder=folder)
    assert find_env("agentrl.envs.textworld:TextWorld", config.environment_options)
    assert Path(folder, "README.md").is_file()

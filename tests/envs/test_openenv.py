"""OpenEnv servers in the real loop: steps, refused actions, a full server, one that dies or hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout_support import Lines, make_chat, make_runner, write_call
from server_process import served

from agentrl import ConfigError, Expert, InfrastructureError, call, say
from agentrl.envs.openenv import OpenEnv
from agentrl.registry import find_tool
from agentrl.rollout import ScriptedPolicy

SERVER = Path(__file__).parent / "openenv_server.py"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(SERVER) as address:
        yield address


class Guesser(OpenEnv):
    def expert(self, task: Any, rng: Any) -> Expert:
        low, high = 1, 9
        while True:
            middle = (low + high) // 2
            [seen] = yield call("act", number=middle)
            if seen == "Right.":
                yield say("Done.")
            low, high = (middle + 1, high) if seen == "Higher." else (low, middle - 1)


async def test_the_expert_solves_every_task(url: str) -> None:
    env = Guesser(url, prompt="Guess well.")
    runner, _ = make_runner(env, ScriptedPolicy(make_chat()))
    tasks = env.tasks("train")[:6]
    episodes = [await runner.run(task, episode_id=task.id) for task in tasks]
    assert all(each.turns[-1].rewards == {"score": 1.0} for each in episodes)
    assert {each.reward for each in episodes} != {1.0}  # wrong guesses cost something
    assert [message["content"] for message in episodes[0].messages[:2]] == [
        "Guess well.",
        "Act with the tool act until it is over.\n\nA number from 1 to 9.",
    ]
    [tool] = map(find_tool, env.tools)
    function = tool.schema["function"]
    assert function["name"] == "act" and list(function["parameters"]["properties"]) == ["number"]


async def test_refused_actions_are_told_to_the_model(url: str) -> None:
    env = OpenEnv(url)
    lines = [write_call("act", number="x"), write_call("act", number=-7), write_call("act", nr=2), "Well."]
    runner, _ = make_runner(env, Lines(*lines))
    episode = await runner.run(env.tasks("test")[0], episode_id="e")
    assert [each.status for each in episode.calls] == ["error"] * 3 and episode.reward == 0.0
    texts = [each.observation.text for each in episode.calls]
    assert "number: Input should be a valid integer" in texts[0]
    assert texts[1] == "negative numbers are never right" and "number: Field required" in texts[2]


async def test_a_full_server_voids_the_episode_and_takes_the_next(url: str) -> None:
    env = OpenEnv(url)
    task = env.tasks("test")[0]
    held = [env.spawn() for _ in range(2)]
    runner, _ = make_runner(env, Lines("No."), retries=0)
    try:
        for each in held:
            await each.reset(task)
        full = await runner.run(task, episode_id="full")
    finally:
        for each in held:
            await each.close()
    assert full.status == "void" and "CAPACITY_REACHED" in full.reason
    retrying, _ = make_runner(env, Lines("No."), retries=8, retry_seconds=0.1)  # until the server has noticed
    assert (await retrying.run(task, episode_id="next")).status == "finished"


async def test_a_step_that_hangs_and_a_server_that_dies() -> None:
    with served(SERVER) as url:
        env = OpenEnv(url)
        task = env.tasks("test")[0]
        lines = [write_call("act", number=-2), write_call("act", number=5), "Well."]
        hanging, _ = make_runner(env, Lines(*lines), tool_seconds=3.0)
        stuck = await hanging.run(task, episode_id="stuck")
        assert [each.status for each in stuck.calls] == ["timeout", "error"]
        assert "no longer available" in stuck.calls[1].observation.text
        dying, _ = make_runner(env, Lines(write_call("act", number=-1)), retries=0)
        dead = await dying.run(task, episode_id="dead")
        assert dead.status == "void" and "ended the session" in dead.reason
        gone = await dying.run(task, episode_id="gone")
        assert gone.status == "void" and "cannot be reached" in gone.reason
        with pytest.raises(InfrastructureError, match="does not tell its schema"):
            OpenEnv(url, start_seconds=5.0)


async def test_a_server_that_does_not_answer_is_given_up(url: str) -> None:
    env = OpenEnv(url)

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(hold, "127.0.0.1", 0)
    env.url, env.start_seconds = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}", 0.5
    runner, _ = make_runner(env, Lines("No."), retries=0)
    episode = await runner.run(env.tasks("test")[0], episode_id="e")
    assert episode.status == "void" and "did not answer in 0.5 s" in episode.reason
    silent.close()


async def test_what_is_shown(url: str) -> None:
    env = OpenEnv(url)
    assert env.to_text({"text": "Hi.", "metadata": {"x": 1}}) == "Hi."
    assert env.to_text({"text": "Hi.", "n": 2}) == '{"text": "Hi.", "n": 2}'
    env.show = "n"
    assert env.to_text({"text": "Hi.", "n": 2}) == "2"
    with pytest.raises(ConfigError, match="show='n' is no field of the observation: text"):
        env.to_text({"text": "Hi."})


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ws://127.0.0.1"])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(ConfigError, match="http://"):
        OpenEnv(url)

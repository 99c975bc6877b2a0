"""The files that the guides show: found by their paths, and working."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from agentrl import Env, Observation, Task, ToolContext, ToolError, Trajectory, Turn
from agentrl.registry import find_env, find_tool
from agentrl.scoring import score_episode

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def shop() -> Env:
    return find_env(str(EXAMPLES / "my_env.py"))


async def play(env: Env, task: Task, rng: random.Random) -> tuple[float, int]:
    """The expert's reward and how many calls it made."""
    env, calls = env.spawn(), 0
    await env.reset(task)
    tools: dict[str, Any] = {tool.name: tool.spawn(ToolContext(task)) for tool in env.own_tools()}
    script = env.expert(task, rng)
    assert script is not None
    message = next(script)
    while message.get("tool_calls"):
        call = message["tool_calls"][0]["function"]
        calls += 1
        message = script.send([Observation.of(await tools[call["name"]].invoke(call["arguments"])).text])
    episode = Trajectory(task, "e", turns=[Turn(0, 0, 0, 0, text=message["content"])])
    await score_episode(episode, env.own_rewards())
    assert episode.reward is not None
    return episode.reward, calls


async def test_in_the_shop_only_looking_pays(shop):
    played = [await play(shop, task, random.Random(i)) for i, task in enumerate(shop.tasks("test"))]
    looked = [reward for reward, calls in played if calls]
    guessed = [reward for reward, calls in played if not calls]
    assert 100 < len(looked) < 240 and set(looked) == {1.0}
    assert sum(guessed) < 10


def test_the_shops_splits_share_no_task(shop):
    train, test = ({task.id for task in shop.tasks(split)} for split in ("train", "test"))
    assert (len(train), len(test)) == (500, 499) and not train & test
    assert train == {task.id for task in shop.tasks("train")}


async def test_a_tool_in_a_file_of_ones_own():
    convert = find_tool(str(EXAMPLES / "convert.py")).spawn(ToolContext())
    assert convert.schema["function"]["description"] == "Convert a length to metres."
    assert await convert.invoke({"amount": "3", "unit": "miles"}) == "4828.03"
    with pytest.raises(ToolError, match="feet and miles, not 'ells'"):
        await convert.invoke({"amount": 3, "unit": "ells"})


@pytest.mark.parametrize(("guide", "example"), [("tools.md", "convert.py"), ("environments.md", "my_env.py")])
def test_the_guides_show_the_very_files(guide, example):
    shown = (EXAMPLES.parent / "docs" / guide).read_text()
    assert f"```python\n{(EXAMPLES / example).read_text()}```" in shown

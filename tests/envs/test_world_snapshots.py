"""Worlds that are taken back to a snapshot go on exactly as they did, in the real loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from rollout_support import Lines, make_runner, write_call

from agentrl import Env, Snapshot, Task, tool
from agentrl.envs.office import Office
from agentrl.envs.retail import Retail
from agentrl.envs.textworld import TextWorld
from agentrl.sandbox import NamespaceSandbox

LIMITS = {"max_turns": 60, "tool_seconds": 60.0, "episode_seconds": 600.0, "max_observation_tokens": 3000,
          "max_trajectory_tokens": 40_000, "retries": 0}  # fmt: skip
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[NamespaceSandbox]:
    async with NamespaceSandbox() as opened:
        yield opened


class GoesBack(Env):
    """Keeps a snapshot when told to, and goes back to it."""

    snapshots: list[Snapshot]

    @tool
    async def keep(self) -> str:
        """Take a snapshot."""
        self.snapshots.append(await self.snapshot())
        return "kept"

    @tool
    async def back(self) -> str:
        """Go back to it."""
        await self.restore(self.snapshots[0])
        return "back"


class Games(GoesBack, TextWorld):
    async def reset(self, task: Task) -> None:
        await super().reset(task)
        assert self.game is not None
        self.walked.append(self.game.walkthrough)

    walked: list[tuple[str, ...]]


class Desk(GoesBack, Retail):
    pass


class Rooms(GoesBack, Office):
    pass


Plan = tuple[list[str], list[str], list[str]]
"""What is said before the snapshot, after it (twice), and in the end."""


async def games(sandbox: NamespaceSandbox) -> tuple[Env, Task, Plan]:
    env = Games(difficulty=2, size=4)
    env.walked = []
    task = env.tasks("test")[0]
    runner, _ = make_runner(env, Lines("No."), sandbox=sandbox, **LIMITS)
    looked = await runner.run(task, episode_id="walkthrough")
    assert looked.status == "finished", looked.reason
    first, *middle, last = [write_call("act", command=each) for each in env.walked[0]]
    look, carried = write_call("act", command="look"), write_call("act", command="inventory")
    return env, task, ([first], [*middle, look, carried], [last])


async def desk(sandbox: NamespaceSandbox) -> tuple[Env, Task, Plan]:
    env = Desk(difficulty=2, size=40)
    task = next(task for task in env.tasks("train") if task.metadata["goals"][0]["tool"] == "return_item")
    [goal] = task.metadata["goals"]
    order = goal["arguments"]["order_id"]
    before = ["Your e-mail or name, please?", write_call("find_user", **task.metadata["identity"])]
    change = write_call("return_item", **goal["arguments"])
    return (
        env,
        task,
        (
            before,
            [f"Return {' '.join(goal['mentions'])}?", change, write_call("get_order", order_id=order)],
            ["Done."],
        ),
    )


async def rooms(sandbox: NamespaceSandbox) -> tuple[Env, Task, Plan]:
    env = Rooms(difficulty=3, size=4)
    task = env.tasks("train")[0]
    lines: list[str] = []
    for steps in task.metadata["steps"]:
        lines += [*(write_call(name, **arguments) for name, arguments in steps), "Done."]
    return env, task, (lines[:2], [*lines[2:-1], write_call("events")], lines[-1:])


@pytest.mark.parametrize("plan", [games, desk, rooms])
async def test_after_going_back_the_same_turns_have_the_same_answers(
    plan: Callable[..., Any], sandbox: NamespaceSandbox
) -> None:
    env, task, (before, after, end) = await plan(sandbox)
    env.snapshots = []
    lines = [*before, write_call("keep"), *after, write_call("back"), *after, *end]
    runner, _ = make_runner(env, Lines(*lines), sandbox=sandbox, **LIMITS)
    episode = await runner.run(task, episode_id="there-and-back")
    assert (episode.status, episode.reward) == ("finished", 1.0), (episode.reason, episode.metadata)
    first_turn = next(i for i, said in enumerate(episode.messages) if said["role"] == "assistant")
    seen = [said["content"] for said in episode.messages[first_turn:] if said["role"] != "assistant"]
    start = len(before) + 1
    once, again = seen[start : start + len(after)], seen[start + len(after) + 1 :][: len(after)]
    assert once == again and len(set(once)) > 1
    await env.snapshots[0].close()

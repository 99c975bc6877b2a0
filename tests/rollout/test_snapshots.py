"""Going back to a snapshot of an episode's world, in the same episode or another, with a real sandbox."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from types import MappingProxyType
from typing import Any

import pytest
from rollout_support import Lines, make_runner, write_call

from agentrl import DefinitionError, Env, Snapshot, Task, Tool, ToolContext, tool
from agentrl.sandbox import Sandbox, open_sandbox

TASK = Task("Go.")


class Note(Tool):
    """Keeps a note, and one in the sandbox."""

    async def open(self) -> None:
        self.pages: list[str] = []

    async def call(self, text: str) -> str:
        """Write.

        Args:
            text: what to write
        """
        session = await self.context.sandbox(wall_seconds=20.0)
        self.pages.append(text)
        result = await session.run_cell(f"x = globals().get('x', '') + {text!r}; print(x)")
        return f"{result.stdout.strip()} {','.join(self.pages)}"


class Counter(Env):
    """Counts, keeps one snapshot, and goes back to it."""

    tools = (Note,)
    table = MappingProxyType({"one": 1})

    def __init__(self, kept: dict[str, Snapshot]) -> None:
        super().__init__([TASK])
        self.kept = kept

    async def reset(self, task: Task) -> None:
        self.counts = [0]
        self.same = self.counts
        self.mine = self.up
        if "start" in self.kept:
            await self.restore(self.kept["start"])

    def up(self) -> str:
        self.counts[0] += 1
        return str(self.same[0])

    @tool
    def add(self) -> str:
        """Count one up."""
        return self.mine()

    @tool
    async def keep(self) -> str:
        """Take a snapshot."""
        self.kept["last"] = await self.snapshot()
        return "kept"

    @tool
    async def back(self) -> str:
        """Go back."""
        self.later = True
        await self.restore(self.kept["last"])
        return str(hasattr(self, "later"))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox() as opened:
        yield opened


async def play(env: Env, sandbox: Sandbox, *calls: str, name: str = "a") -> list[str]:
    lines = [
        write_call(*call.split()[:1], **({"text": call.split()[1]} if " " in call else {})) for call in calls
    ]
    runner, _ = make_runner(
        env, Lines(*lines, "done"), sandbox=sandbox, max_turns=20, tool_seconds=60, episode_seconds=300,
        max_trajectory_tokens=4000,
    )  # fmt: skip
    episode = await runner.run(TASK, episode_id=name)
    assert episode.status == "finished", episode.reason
    return [call.observation.text.strip() for call in episode.calls]


async def test_going_back_undoes_attributes_tools_and_sandbox_again_and_again(sandbox: Sandbox) -> None:
    kept: dict[str, Snapshot] = {}
    once = ["note b", "add", "back"]
    told = await play(Counter(kept), sandbox, "add", "note a", "keep", *once, *once, "note c", "add")
    assert told == ["1", "a a", "kept", "ab a,b", "2", "False", "ab a,b", "2", "False", "ac a,c", "2"]
    await kept["last"].close()


async def test_another_episode_begins_where_a_snapshot_was_taken(sandbox: Sandbox) -> None:
    kept: dict[str, Snapshot] = {}
    await play(Counter(kept), sandbox, "add", "add", "note a", "keep", "add")
    async with kept["last"] as start:
        others = [play(Counter({"start": start}), sandbox, "add", name=f"b{i}") for i in range(3)]
        assert await asyncio.gather(*others) == [["3"]] * 3


class Locked(Env):
    async def reset(self, task: Task) -> None:
        self.lock: Any = threading.Lock()

    @tool
    async def keep(self) -> str:
        """Take a snapshot."""
        await self.snapshot()
        return "kept"


async def test_what_cannot_be_copied_is_named(sandbox: Sandbox) -> None:
    runner, _ = make_runner(Locked([TASK]), Lines(write_call("keep"), "done"), sandbox=sandbox)
    with pytest.raises(DefinitionError, match=r"Locked\.lock cannot be copied.*override snapshot"):
        await runner.run(TASK, episode_id="a")


async def test_a_snapshot_fits_its_own_environment_only(sandbox: Sandbox) -> None:
    kept: dict[str, Snapshot] = {}
    await play(Counter(kept), sandbox, "keep")

    class Other(Env):
        async def reset(self, task: Task) -> None:
            await self.restore(kept["last"])

    runner, _ = make_runner(Other([TASK]), Lines("done"), sandbox=sandbox)
    with pytest.raises(DefinitionError, match="A snapshot with Counter cannot be restored"):
        await runner.run(TASK, episode_id="b")
    await kept["last"].close()


async def test_outside_of_episodes_there_is_no_world() -> None:
    env = Env([TASK]).spawn()
    env.context = ToolContext()
    with pytest.raises(DefinitionError, match="running episode"):
        await env.snapshot()

"""An episode whose tool runs code in a real sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from rollout_support import TASK, Lines, make_runner, write_call

from agentrl import Env, Tool
from agentrl.errors import SandboxUnavailable
from agentrl.sandbox import Sandbox, open_sandbox


class Python(Tool):
    """Runs code."""

    async def call(self, code: str) -> str:
        """Run code in the episode's interpreter."""
        session = await self.context.sandbox(wall_seconds=20.0)
        result = await session.run_cell(code)
        return result.stdout + result.stderr


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    try:
        opened = open_sandbox()
    except SandboxUnavailable as problem:
        pytest.skip(str(problem))
    async with opened:
        yield opened


async def test_an_episode_keeps_its_variables_and_shares_none(sandbox: Sandbox) -> None:
    lines = [write_call("python", code="x = 20 + 1"), write_call("python", code="print(x * 2)"), "done"]
    runner, _ = make_runner(
        Env(tools=[Python]), Lines(*lines), sandbox=sandbox, tool_seconds=60, episode_seconds=100
    )
    episode = await runner.run(TASK, episode_id="a")
    assert [call.observation.text.strip() for call in episode.calls] == ["", "42"]
    runner, _ = make_runner(Env(tools=[Python]), Lines(lines[1], "done"), sandbox=sandbox, tool_seconds=60)
    other = await runner.run(TASK, episode_id="b")
    assert "NameError" in other.calls[0].observation.text


async def test_a_sandbox_that_went_away_voids_the_episode(sandbox: Sandbox) -> None:
    await sandbox.close()
    runner, _ = make_runner(
        Env(tools=[Python]), Lines(write_call("python", code="1")), sandbox=sandbox, retries=1
    )
    episode = await runner.run(TASK, episode_id="a")
    assert (episode.status, episode.reward, episode.attempts) == ("void", None, 2)

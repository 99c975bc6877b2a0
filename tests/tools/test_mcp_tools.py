"""Tools of MCP servers: a command and a URL, sessions, and servers that die, hang or never were."""

from __future__ import annotations

import asyncio
import copy
import logging
import shlex
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from rollout_support import make_runner, sampled, write_call
from server_process import served

from agentrl import (
    ConfigError,
    Env,
    InfrastructureError,
    SessionLost,
    Task,
    Tool,
    ToolContext,
    ToolError,
    reward,
)
from agentrl.errors import NotFound
from agentrl.registry import find_tool, find_tools
from agentrl.rollout import SimulatedPolicy
from agentrl.serve.host import CallRequest
from agentrl.serve.local import LocalHost
from agentrl.serve.server import make_tools
from agentrl.tools.mcp import McpServer

SERVER = Path(__file__).parent / "mcp_server.py"
COMMAND = shlex.join([sys.executable, str(SERVER), "stdio"])
TOKEN = {"token": "please"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(SERVER) as address:
        yield f"{address}/mcp"


@asynccontextmanager
async def episode(tools: Sequence[Tool]) -> AsyncIterator[dict[str, Any]]:
    """The tools as an episode has them, by name."""
    context = ToolContext(Task("Go."))
    mine = [tool.spawn(context) for tool in tools]
    try:
        for tool in mine:
            await tool.open()
        yield {tool.name: tool for tool in mine}
    finally:
        for tool in mine:
            await tool.close()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def running_with(word: str) -> list[Path]:
    """Processes whose command line has the word."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ends as we look
            if word.encode() in line.read_bytes():
                found.append(line)
    return found


# ---- what tools do


async def use_them(tools: list[Tool], *, shared: bool) -> None:
    schema = {tool.name: tool.schema["function"] for tool in tools}["add"]
    assert schema["description"] == "Add two numbers." and schema["parameters"]["required"] == ["a"]
    async with episode(tools) as mine:
        answer = await mine["add"].invoke({"a": 2, "b": 3})
        assert answer.text == "5" and answer.metadata["structured"] == {"result": 5}
        wrong = await mine["add"].invoke({"a": "two"})
        assert wrong.error and "valid integer" in wrong.text
        failed = await mine["fail"].invoke({})
        assert failed.error and "the well is dry" in failed.text
        [picture] = (await mine["square"].invoke({})).images
        assert picture.media_type == "image/png" and picture.data.startswith(b"\x89PNG")
        first, pid = (await mine["up"].invoke({})).text.split(" in ")
        again, _ = (await mine["up"].invoke({})).text.split(" in ")
        assert int(again) == int(first) + 1
    assert alive(int(pid)) == shared


async def test_a_command_is_started_for_each_episode_and_ended_with_it() -> None:
    await use_them(find_tools(f"mcp:{COMMAND}"), shared=False)
    assert [tool.name for tool in find_tools(f"mcp:{COMMAND}#up")] == ["up"]


async def test_a_server_at_a_url_is_called_with_its_token(url: str) -> None:
    await use_them(find_tools(f"mcp:{url}", TOKEN), shared=True)
    with pytest.raises(InfrastructureError, match="cannot be used"):
        find_tools(f"mcp:{url}", {"token": "guess"})


def test_read_only_tools_may_run_side_by_side(url: str) -> None:
    parallel = {tool.name: tool.parallel for tool in find_tools(f"mcp:{url}", TOKEN)}
    assert parallel["add"] and not parallel["up"]


def test_one_tool_of_a_server(url: str) -> None:
    assert find_tool(f"mcp:{url}#add", TOKEN).name == "add"
    with pytest.raises(NotFound, match="has no tool 'ad'. Did you mean 'add'"):
        find_tools(f"mcp:{url}#ad", TOKEN)
    with pytest.raises(ConfigError, match=r"offers 7 tools \(add, .* name one as mcp:.*#NAME"):
        find_tool(f"mcp:{url}", TOKEN)
    with pytest.raises(ConfigError, match="Did you mean 'token'"):
        find_tools(f"mcp:{url}", {"tokn": "please"})


async def test_pictures_beyond_a_size_are_left_out(url: str) -> None:
    async with episode(find_tools(f"mcp:{url}#square", {**TOKEN, "image_bytes": 10})) as mine:
        seen = await mine["square"].invoke({})
    assert not seen.images and "is left out: too large" in seen.text


async def test_a_call_that_the_server_refuses_is_told_to_the_model(url: str) -> None:
    async with episode(find_tools(f"mcp:{url}#refuse", TOKEN)) as mine:
        with pytest.raises(ToolError, match="refuse: not on Sundays"):
            await mine["refuse"].invoke({})


async def test_sessions_are_bounded_and_a_further_episode_waits(url: str, caplog: Any) -> None:
    tools = find_tools(f"mcp:{url}#add", {**TOKEN, "most_sessions": 1})
    with caplog.at_level(logging.INFO, "agentrl.tools.mcp"):
        async with episode(tools):
            waiting, gone = asyncio.create_task(add_once(tools)), asyncio.create_task(add_once(tools))
            while caplog.text.count("an episode waits, all 1 sessions are in use") < 2:
                await asyncio.sleep(0.01)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert not waiting.done()
        assert await waiting == "2"


async def add_once(tools: Sequence[Tool]) -> str:
    async with episode(tools) as mine:
        return str((await mine["add"].invoke({"a": 1})).text)


async def test_a_server_offers_its_tools_at_agentrl_serve(url: str) -> None:
    tools = make_tools([f"mcp:{url}#add{{token: please}}", f"mcp:{url}#up{{token: please}}"])
    async with LocalHost(tools) as host:
        assert [schema["function"]["name"] for schema in await host.schemas()] == ["add", "up"]
        await host.open("one")
        answer = await host.call(CallRequest("add", {"a": 1}, "one", "1"))
        assert (answer.status, answer.observation.text) == ("ok", "2")


# ---- servers that fail


class Adding(Env):
    """Solved by who adds up to 5 with a tool of a server."""

    def __init__(self, tools: Sequence[Any]) -> None:
        super().__init__(tools=tools)

    @reward
    def right(self, episode: Any) -> float:
        return float(any(call.observation.text == episode.task.answer for call in episode.calls))


SCRIPTS = {
    "works": [write_call("add", a=2, b=3), "Done."],
    "dies": [write_call("die"), "Done."],
    "hangs": [write_call("hang"), "Done."],
}


class Actor(SimulatedPolicy):
    """Says the lines of the episode's script."""

    def __init__(self) -> None:
        self.turns: dict[str, int] = {}
        super().__init__(self._say)

    def _say(self, prompt_ids: Sequence[int], episode: str) -> Sequence[int]:
        self.turns[episode] = turn = self.turns.get(episode, -1) + 1
        return sampled(SCRIPTS[episode.partition("-")[0]][turn])


@pytest.mark.timeout(300)  # the first to load the tokenizer's libraries, which takes a loaded machine long
async def test_a_server_that_dies_or_hangs_harms_no_other_episode() -> None:
    command = shlex.join([sys.executable, str(SERVER.with_name("small_mcp_server.py"))])
    tools = [copy.copy(tool) for tool in find_tools(f"mcp:{command}")]
    next(tool for tool in tools if tool.name == "hang").seconds = 1.0
    runner, _ = make_runner(Adding(tools), Actor(), retries=0, tool_seconds=60.0, episode_seconds=100.0)
    names = ["works", "dies", "hangs"]
    works, dies, hangs = await asyncio.gather(
        *(runner.run(Task("Go.", answer="5"), episode_id=f"{name}-1") for name in names)
    )
    assert (works.status, works.reward) == ("finished", 1.0)
    assert (dies.status, dies.reward) == ("void", None)
    assert "SessionLost: MCP server" in dies.reason and "was lost in a call of 'die'" in dies.reason
    assert hangs.status == "finished" and hangs.calls[0].status == "timeout"
    assert "hang was stopped: it took longer than 1 s" in hangs.calls[0].observation.text


async def test_a_server_at_a_url_that_dies() -> None:
    with served(SERVER) as address:
        tools = find_tools(f"mcp:{address}/mcp", TOKEN)
        async with episode(tools) as mine:
            for name in ("die", "add"):
                with pytest.raises(SessionLost, match=f"was lost in a call of '{name}'"):
                    await mine[name].invoke({"a": 1} if name == "add" else {})
        with pytest.raises(InfrastructureError, match="cannot be used: ConnectError"):
            async with episode(tools):
                pass


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (shlex.join([sys.executable, "-c", "import absent_here"]), "ModuleNotFoundError: .*absent_here"),
        ("/absent/here", "No such file"),
        ("http://127.0.0.1:9/mcp", "ConnectError"),
    ],
)
def test_a_server_that_cannot_be_started_says_why(command: str, words: str) -> None:
    with pytest.raises(InfrastructureError, match=f"(?s)MCP server .* cannot be used: .*{words}"):
        find_tools(f"mcp:{command}")


def test_a_silent_server_is_given_up_and_ended(tmp_path: Path, monkeypatch: Any) -> None:
    code = f"import time; time.sleep(3600) # {tmp_path}"
    silent = McpServer(shlex.join([sys.executable, "-c", code]), start_seconds=1.0)
    with pytest.raises(InfrastructureError, match=r"did not answer in 1 s \(start_seconds\)"):
        silent.tools()
    assert not running_with(str(tmp_path))
    monkeypatch.setattr(silent, "start_seconds", 0.0)
    with pytest.raises(InfrastructureError, match="in 1 s"):  # told again without asking again
        silent.tools()


@pytest.mark.parametrize(
    ("name", "words"),
    [("mcp:", "mcp:URL or mcp:COMMAND"), ("mcp:'", "cannot be read"), ("mcp:''", "needs a URL or a command")],
)
def test_names_that_name_no_server(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find_tools(name)

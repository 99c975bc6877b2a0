"""The client, against real servers that break, end and refuse."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from serve_support import process, running

from agentrl.errors import (
    ConfigError,
    InfrastructureError,
    InvalidArguments,
    NotFound,
    ServerBusy,
    SessionLost,
)
from agentrl.registry import find_tool
from agentrl.serve.client import ToolClient
from agentrl.serve.host import CallRequest
from agentrl.serve.local import SessionLimits
from agentrl.serve.server import listening
from agentrl.tool import Tool, ToolContext

pytestmark = pytest.mark.slow


class Counter(Tool):
    """Counts, in its session; and in all."""

    total = 0

    def __init__(self) -> None:
        self.count = 0
        self.began, self.release = asyncio.Event(), asyncio.Event()

    async def call(self, wait: bool = False) -> str:
        """Count one more."""
        Counter.total += 1
        self.count += 1
        self.began.set()
        if wait:
            await self.release.wait()
        return str(self.count)


@asynccontextmanager
async def slow_server(tmp_path: Path) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """A server whose tool waits for ever, or answers; in a process of its own."""
    (tmp_path / "slow.py").write_text(
        "import asyncio\nfrom pathlib import Path\nfrom agentrl import Tool\n"
        "class Slow(Tool):\n"
        "    async def call(self, touch: str = '') -> str:\n"
        "        '''Wait for ever, or answer.'''\n"
        "        if touch:\n"
        "            Path(touch).touch()\n"
        "            await asyncio.Event().wait()\n"
        "        return 'here'\n"
    )
    async with process(str(tmp_path / "slow.py")) as served:
        yield served


async def appears(path: Path) -> None:
    while not path.exists():
        await asyncio.sleep(0.02)


async def test_a_session_keeps_its_state_and_an_id_runs_once() -> None:
    async with running(Counter()) as server, ToolClient(server.url) as client:
        await client.open("env/task 1")
        first = await client.call(CallRequest("counter", {}, "env/task 1", "a"))
        again = await client.call(CallRequest("counter", {}, "env/task 1", "a"))
        after = await client.call(CallRequest("counter", {}, "env/task 1", "b"))
        assert [each.observation.text for each in (first, again, after)] == ["1", "1", "2"]
        assert [each.replayed for each in (first, again, after)] == [False, True, False]
        await client.end("env/task 1")
        assert server.host.sessions == 0
        with pytest.raises(SessionLost, match="ended by its caller"):
            await client.call(CallRequest("counter", {}, "env/task 1"))
        with pytest.raises(SessionLost):
            await client.open("env/task 1")


async def test_a_connection_that_breaks_before_the_answer_is_tried_again_and_runs_once() -> None:
    tool, broken = Counter(), asyncio.Event()
    async with running(tool) as server:

        async def relay(request: web.Request) -> web.StreamResponse:
            import aiohttp

            async with aiohttp.ClientSession() as http:
                body = await request.read()
                async with http.request(request.method, server.url + request.path, data=body) as answer:
                    content = await answer.read()
            if request.path == "/v1/calls" and not broken.is_set():
                broken.set()
                assert request.transport is not None
                request.transport.abort()
            return web.Response(body=content, status=answer.status)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", relay)
        async with listening(app, "127.0.0.1", 0) as url, ToolClient(url) as client:
            before = Counter.total
            answer = await client.call(CallRequest("counter"))
            assert broken.is_set() and answer.replayed and answer.observation.text == "1"
            assert Counter.total == before + 1


async def test_of_two_servers_one_killed_in_mid_call_its_sessions_alone_are_lost(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with slow_server(tmp_path / "one") as (one, server), slow_server(tmp_path / "two") as (two, _):
        async with ToolClient([one, two]) as client:
            names = [f"s{i}" for i in range(16)]
            for name in names:
                await client.open(name)
            lost = [name for name in names if client.home(name) == one]
            assert 0 < len(lost) < len(names)
            touched = tmp_path / "touched"
            calls = [
                asyncio.ensure_future(client.call(CallRequest("slow", {"touch": f"{touched}{name}"}, name)))
                for name in lost[:2]
            ]
            for name in lost[:2]:
                await appears(Path(f"{touched}{name}"))
            os.kill(server.pid, signal.SIGKILL)
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(answer) for answer in answers] == [SessionLost] * len(calls)
            for name in lost[2:]:
                with pytest.raises(SessionLost, match="gone with its server"):
                    await client.call(CallRequest("slow", {}, name))
            for name in set(names) - set(lost):
                assert (await client.call(CallRequest("slow", {}, name))).observation.text == "here"
            for name in ("new1", "new2", "new3", "new4"):
                await client.open(name)
                assert client.home(name) == two


async def test_a_loose_call_goes_to_another_server_if_none_was_reached() -> None:
    async with running(Counter()) as server:
        async with ToolClient(["http://127.0.0.1:9", server.url]) as client:
            for i in range(4):
                answer = await client.call(CallRequest("counter", id=f"c{i}"))
                assert answer.observation.text == "1"


async def test_without_any_server_it_says_so() -> None:
    async with ToolClient("http://127.0.0.1:9") as client:
        with pytest.raises(InfrastructureError, match="cannot be reached"):
            await client.open("s")


async def test_patience_with_a_busy_server_ends() -> None:
    async with running(Counter(), limits=SessionLimits(most=1)) as server:
        async with ToolClient(server.url, patience=0) as client:
            await client.open("a")
            with pytest.raises(ServerBusy) as busy:
                await client.open("b")
            assert busy.value.queue_full and busy.value.retry_after >= 1


async def test_cancelling_the_caller_stops_the_work() -> None:
    tool = Counter()
    async with running(tool, limits=SessionLimits(grace_seconds=0)) as server:
        async with ToolClient(server.url) as client:
            await client.open("s")
            call = asyncio.ensure_future(client.call(CallRequest("counter", {"wait": True}, "s")))
            await tool.began.wait()
            call.cancel()
            while server.host.admission.running:
                await asyncio.sleep(0.01)
            after = await client.call(CallRequest("counter", {}, "s"))
            assert after.observation.text == "2"


async def test_a_wrong_token_is_the_users_to_mend() -> None:
    async with running(Counter(), token="right") as server:
        async with ToolClient(server.url, token="wrong") as client:
            with pytest.raises(ConfigError, match="token"):
                await client.open("s")
        async with ToolClient(server.url, token="right") as client:
            assert [each["function"]["name"] for each in await client.schemas()] == ["counter"]


async def test_a_served_tool_is_a_tool_of_an_episode() -> None:
    async with running(Counter(), "code", token="right") as server:
        make = asyncio.to_thread
        found = await make(find_tool, f"{server.url}/counter", {"token": "right"})
        other = await make(find_tool, f"{server.url}/code", {"token": "right"})
        assert found.name == "counter" and found.schema["function"]["description"] == "Count one more."
        context = ToolContext(episode_id="math/3")
        tools = [each.spawn(context) for each in (found, other)]
        for tool in tools:
            await tool.open()
        assert server.host.sessions == 1
        assert [(await tools[0].invoke({})).text for _ in range(2)] == ["1", "2"]
        assert (await tools[1].invoke({"code": "print(3)"})).text == "3\n"
        with pytest.raises(InvalidArguments):
            await tools[0].invoke({"nonsense": 1})
        for tool in tools:
            await tool.close()
        assert server.host.sessions == 0
        with pytest.raises(NotFound, match="counter"):
            await make(find_tool, f"{server.url}/conter", {"token": "right"})
        with pytest.raises(ConfigError, match="token"):
            await make(find_tool, f"{server.url}/counter", {"tokn": "right"})
        with pytest.raises(ConfigError, match="token"):
            await make(find_tool, f"{server.url}/counter", {"token": "wrong"})

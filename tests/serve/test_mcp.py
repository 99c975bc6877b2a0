"""MCP, with the official SDK's client over HTTP."""

from __future__ import annotations

import asyncio
import base64

import aiohttp
import anyio
import pytest
from mcp import Client, MCPError
from mcp_types import CallToolResult, ImageContent, TextContent
from serve_support import Recording, answering

from agentrl import Image, SessionLost, Tool, ToolError
from agentrl.errors import ServerBusy
from agentrl.sandbox import open_sandbox
from agentrl.serve.protocols import mcp
from agentrl.tools.python import Python

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
JSON = {"Accept": "application/json, text/event-stream"}


class Counter(Tool):
    def __init__(self) -> None:
        self.count = 0

    async def call(self, by: int = 1) -> str:
        """Count.

        Args:
            by: how far
        """
        self.count += by
        return str(self.count)


class Picture(Tool):
    async def call(self) -> list[object]:
        """Draw."""
        return ["a dot", Image(PNG)]


class Failing(Tool):
    async def call(self) -> str:
        """Fail."""
        raise ToolError("the shelf is empty")


class Hanging(Tool):
    """Says when it began and when it was stopped."""

    def __init__(self) -> None:
        self.began, self.stopped = asyncio.Event(), asyncio.Event()

    async def call(self) -> str:
        """Wait."""
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()
        return ""


def text_of(seen: CallToolResult) -> str:
    [content] = seen.content
    assert isinstance(content, TextContent)
    return content.text


@pytest.fixture
async def hanging():
    return Hanging()


@pytest.fixture
async def host(hanging):
    async with Recording([Counter(), Picture(), Failing(), hanging]) as host:
        yield host


@pytest.fixture
async def url(host):
    async with answering(mcp.routes(host)) as address:
        yield f"{address}/mcp"


async def test_tools_are_listed_with_their_schemas(url):
    async with Client(url) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"counter", "picture", "failing", "hanging"}
    assert tools["counter"].description == "Count."
    assert tools["counter"].input_schema["properties"]["by"]["type"] == "integer"


async def test_text_and_images_come_back(url):
    async with Client(url) as client:
        seen = await client.call_tool("picture", {})
    text, image = seen.content
    assert isinstance(text, TextContent) and text.text == "a dot" and not seen.is_error
    assert isinstance(image, ImageContent) and image.mime_type == "image/png"
    assert base64.b64decode(image.data) == PNG


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [("failing", {}, "the shelf is empty"), ("counter", {"by": "far"}, "Invalid arguments for counter")],
)
async def test_what_fails_is_shown_as_an_error(url, tool, arguments, words):
    async with Client(url) as client:
        seen = await client.call_tool(tool, arguments)
    assert seen.is_error and words in text_of(seen)


async def test_an_unknown_tool_is_an_error_of_the_protocol(url):
    async with Client(url) as client:
        with pytest.raises(MCPError, match="no tool 'hammer'") as problem:
            await client.call_tool("hammer", {})
    assert problem.value.code == -32602


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_two_clients_have_a_session_each_which_ends_with_them(url, host, mode):
    async with Client(url, mode=mode) as first, Client(url, mode=mode) as second:
        await first.call_tool("counter", {"by": 5})
        counted = await asyncio.gather(
            first.call_tool("counter", {"by": 1}), second.call_tool("counter", {"by": 1})
        )
        assert [text_of(seen) for seen in counted] == ["6", "1"]
        assert len(set(host.opened)) == 2 and host.ended.empty()
    assert {await host.ended.get(), await host.ended.get()} == set(host.opened)


async def test_a_cancelled_request_stops_the_work_and_the_session_goes_on(url, hanging):
    async with Client(url) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "hanging", {})
            await hanging.began.wait()
            group.cancel_scope.cancel()
        await hanging.stopped.wait()
        assert text_of(await client.call_tool("counter", {})) == "1"


async def rpc(http, url, method, params=None, *, id=1, **headers):
    message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
    if id is not None:
        message["id"] = id
    async with http.post(url, json=message, headers={**JSON, **headers}) as response:
        return response, (await response.json() if response.content_type == "application/json" else None)


async def begun(http, url):
    response, _ = await rpc(http, url, "initialize", {"protocolVersion": "2025-06-18"})
    return {"Mcp-Session-Id": response.headers["Mcp-Session-Id"]}


async def test_a_cancellation_notification_alone_stops_the_work(url, hanging):
    async with aiohttp.ClientSession() as http:
        session = await begun(http, url)
        waiting = asyncio.ensure_future(rpc(http, url, "tools/call", {"name": "hanging"}, id="x", **session))
        await hanging.began.wait()
        notice, _ = await rpc(http, url, "notifications/cancelled", {"requestId": "x"}, id=None, **session)
        _, answer = await waiting
        await hanging.stopped.wait()
    assert notice.status == 202 and answer["error"]["code"] == -32800


async def test_a_client_that_goes_away_stops_the_work(url, hanging):
    async with aiohttp.ClientSession() as http:
        session = await begun(http, url)
        waiting = asyncio.ensure_future(rpc(http, url, "tools/call", {"name": "hanging"}, **session))
        await hanging.began.wait()
        waiting.cancel()
        await hanging.stopped.wait()


async def test_an_idle_session_ends(host):
    async with answering(mcp.routes(host, limits=mcp.McpLimits(idle_seconds=0.05))) as address:
        async with aiohttp.ClientSession() as http:
            session = await begun(http, f"{address}/mcp")
            assert await host.ended.get() == session["Mcp-Session-Id"]
            response, _ = await rpc(http, f"{address}/mcp", "tools/list", **session)
    assert response.status == 404


async def test_a_session_that_the_host_lost_has_to_be_begun_anew(url, host):
    async with aiohttp.ClientSession() as http:
        session = await begun(http, url)
        await host.end(session["Mcp-Session-Id"])
        for _ in range(2):
            response, _ = await rpc(http, url, "tools/call", {"name": "counter"}, **session)
            assert response.status == 404


@pytest.mark.parametrize(
    ("problem", "status"),
    [(ServerBusy("full", 7), 503), (SessionLost("gone"), 404), (OSError("a bug"), 500)],
)
async def test_what_machinery_does_is_never_an_answer(url, host, monkeypatch, problem, status):
    async def call(request):
        raise problem

    monkeypatch.setattr(host, "call", call)
    async with aiohttp.ClientSession() as http:
        response, _ = await rpc(http, url, "tools/call", {"name": "counter"}, **await begun(http, url))
    assert response.status == status
    if status == 503:
        assert response.headers["Retry-After"] == "7"


async def test_sessions_are_bounded(host):
    async with answering(mcp.routes(host, limits=mcp.McpLimits(most=1))) as address:
        async with aiohttp.ClientSession() as http:
            await begun(http, f"{address}/mcp")
            response, _ = await rpc(http, f"{address}/mcp", "initialize")
    assert response.status == 503 and response.headers["Retry-After"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "rebound.example:8000"}, 421),
        ({"Host": "rebound.example:8000", "Origin": "http://rebound.example:8000"}, 421),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "https://page.example"}, 200),
        ({"Host": "tools.example"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "[::1"}, 421),
        ({"Origin": "http://[::1"}, 403),
    ],
)
async def test_web_pages_are_kept_out(host, headers, status):
    served = mcp.routes(host, hosts=["tools.example"], origins=["https://page.example"])
    async with answering(served) as address, aiohttp.ClientSession() as http:
        response, _ = await rpc(http, f"{address}/mcp", "initialize", **headers)
    assert response.status == status


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, -32700),
        (b"[" * 100_000, 400, -32700),
        (b"[]", 400, -32600),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', 400, -32600),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "ping"}', 400, -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}', 400, -32600),  # no session
        (b'"' + b"x" * 2000, 413, -32600),
    ],
)
async def test_messages_that_are_none_are_refused(host, body, status, code):
    limits = mcp.McpLimits(body_bytes=200_000 if body[:1] == b"[" else 1000)
    async with answering(mcp.routes(host, limits=limits)) as address, aiohttp.ClientSession() as http:
        headers = {**JSON, "Content-Type": "application/json"}
        async with http.post(f"{address}/mcp", data=body, headers=headers) as response:
            assert response.status == status and (await response.json())["error"]["code"] == code


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [("resources/list", {}, -32601), ("tools/call", {"name": 3}, -32602)],
)
async def test_requests_that_cannot_be_answered(url, method, params, code):
    async with aiohttp.ClientSession() as http:
        response, answer = await rpc(http, url, method, params, **await begun(http, url))
    assert response.status == 200 and answer["error"]["code"] == code


async def test_variables_of_python_stay_for_the_session():
    async with open_sandbox() as sandbox, Recording([Python()], sandbox) as host:
        async with answering(mcp.routes(host)) as address, Client(f"{address}/mcp") as client:
            await client.call_tool("python", {"code": "x = 41"})
            seen = await client.call_tool("python", {"code": "x + 1"})
    assert text_of(seen) == "42"

"""All protocols on the real server: what its application adds to each."""

from __future__ import annotations

import aiohttp
import pytest
from mcp import Client
from mcp_types import TextContent
from serve_support import running

from agentrl.errors import ServerBusy

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_every_protocol_answers_on_one_server(server):
    batch = {"trajectory_ids": ["a"], "actions": ["<python>print(1)</python>"]}
    async with aiohttp.ClientSession(server.url) as http:
        async with http.post("/get_observation", json=batch) as response:
            assert (await response.json())["observations"] == ["\n<result>\n1\n</result>\n"]
            assert float(response.headers["X-Process-Time"]) > 0
        async with http.get("/health") as response:
            assert (await response.json())["status"] == "healthy"
        async with http.post("/run_code", json={"code": "echo 2", "language": "bash"}) as response:
            assert (await response.json())["run_result"]["stdout"] == "2\n"
        async with http.post("/retrieve", json={"queries": ["x"]}) as response:
            assert response.status == 404


async def test_mcp_sessions_are_sessions_of_the_host(server):
    before = server.host.sessions
    async with Client(f"{server.url}/mcp") as client:
        await client.call_tool("python", {"code": "x = 41"})
        seen = await client.call_tool("python", {"code": "x + 1"})
        assert server.host.sessions == before + 1
    [content] = seen.content
    assert isinstance(content, TextContent) and content.text == "42" and server.host.sessions == before


@pytest.mark.parametrize(("path", "status"), [("/get_observation", 429), ("/run_code", 429), ("/mcp", 503)])
async def test_a_full_server_says_when_to_come_back(server, monkeypatch, path, status):
    async def full(*args, **options):
        raise ServerBusy("full", 7, queue_full=True)

    monkeypatch.setattr(server.host, "call", full)
    monkeypatch.setattr(server.host, "open", full)
    body = {
        "/get_observation": {"trajectory_ids": ["a"], "actions": ["<python>1</python>"]},
        "/run_code": {"code": "1", "language": "python"},
        "/mcp": {"jsonrpc": "2.0", "id": 1, "method": "initialize"},
    }[path]
    async with aiohttp.ClientSession(server.url) as http, http.post(path, json=body) as response:
        assert response.status == status and response.headers["Retry-After"] == "7"


async def test_a_token_guards_every_protocol():
    async with running("code", token="secret") as guarded, aiohttp.ClientSession(guarded.url) as http:
        for path in ("/get_observation", "/run_code", "/retrieve", "/mcp"):
            async with http.post(path, json={}) as response:
                assert response.status == 401

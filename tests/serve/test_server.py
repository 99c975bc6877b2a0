"""The server at a real address, and as a process of its own: refusals, the end, and what it tells."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve_support import Running, named, naming_itself, process, running, until

from agentrl.errors import ConfigError, NotFound
from agentrl.serve.admission import Admission
from agentrl.serve.app import make_app
from agentrl.serve.local import SessionLimits
from agentrl.serve.server import (
    ServeSettings,
    check_address,
    listening,
    make_host,
    make_tools,
    protocol_routes,
)
from agentrl.tool import Tool


class Echo(Tool):
    """Says again what it is told."""

    async def call(self, text: str) -> str:
        """Say it again.

        Args:
            text: what to say
        """
        if text == "raise":
            raise RuntimeError("a defect")
        return text


GATE = """
import asyncio
from pathlib import Path
from agentrl import Tool

class Gate(Tool):
    async def call(self, began: str, release: str) -> str:
        '''Wait for a file.'''
        Path(began).touch()
        while not Path(release).exists():
            await asyncio.sleep(0.02)
        return 'through'
"""


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as http:
        yield http


async def ask(
    http: aiohttp.ClientSession, url: str, body: object = None, method: str = "POST", **how: Any
) -> tuple[int, Any, str]:
    """Status, body, and when to come back."""
    async with http.request(method, url, json=body, **how) as response:
        return response.status, await response.json(), response.headers.get("Retry-After", "")


async def metrics(http: aiohttp.ClientSession, server: Running) -> dict[str, float]:
    async with http.get(f"{server.url}/metrics") as response:
        page = await response.text()
    samples = [each for family in text_string_to_metric_families(page) for each in family.samples]
    return {
        ",".join(
            [each.name.removeprefix("agentrl_"), *dict(sorted(each.labels.items())).values()]
        ): each.value
        for each in samples
    }


async def test_what_became_of_a_call_is_its_status_and_no_error_of_the_server(
    http: aiohttp.ClientSession,
) -> None:
    async with running(Echo()) as server:
        for body, status, words in (
            ({"tool": "echo", "arguments": {"text": "hi"}}, "ok", "hi"),
            ({"tool": "echo", "arguments": {"text": "raise"}}, "raised", ""),
            ({"tool": "ehco", "arguments": {}}, "unknown", "ehco"),
            ({"tool": "echo", "arguments": {"txt": "hi"}}, "invalid", "text"),
        ):
            code, answer, _ = await ask(http, f"{server.url}/v1/calls", body)
            assert (code, answer["status"]) == (200, status)
            assert words in answer["observation"]["text"]
            assert answer["observation"]["error"] == (status != "ok")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"{", "body"),
        (b"[]", "body"),
        (b'{"arguments": {}}', "tool"),
        (b'{"tool": "echo", "arguments": []}', "arguments"),
        (b'{"tool": "echo", "seconds": 0}', "seconds"),
        (b'{"tool": "echo", "secondz": 1}', "secondz"),
        (b'{"tool": "echo", "id": "%s"}' % (b"x" * 201), "id"),
        (b"\xff", "body"),
    ],
)
async def test_a_body_that_is_none_is_told_where_and_why(
    http: aiohttp.ClientSession, body: bytes, where: str
) -> None:
    async with running(Echo()) as server:
        for path in ("calls", "sessions/s/calls"):
            async with http.post(f"{server.url}/v1/{path}", data=body) as response:
                answer = await response.json()
                assert response.status == 422 and answer["error"]["kind"] == "BadRequest"
                place, _, why = answer["error"]["message"].partition(": ")
                assert place == where and why


async def test_refusals_have_their_statuses(http: aiohttp.ClientSession) -> None:
    call = {"tool": "echo", "arguments": {"text": "hi"}}
    async with running(Echo(), limits=SessionLimits(most=1)) as server:
        at = f"{server.url}/v1/sessions"
        assert (await ask(http, f"{at}/a"))[0] == 200
        status, answer, after = await ask(http, f"{at}/b")
        assert (status, answer["error"]["kind"]) == (429, "ServerBusy") and int(after) >= 1
        assert (await ask(http, f"{at}/a", method="DELETE"))[0] == 200
        for path, body in ((f"{at}/a/calls", call), (f"{at}/a", None), (f"{at}/x/calls", call)):
            status, answer, _ = await ask(http, path, body)
            assert (status, answer["error"]["kind"]) == (410, "SessionLost")
        status, answer, _ = await ask(http, f"{at}/c", {"tools": ["ecko"]})
        assert (status, answer["error"]["kind"]) == (404, "NotFound") and "echo" in answer["error"]["message"]
        status, answer, _ = await ask(http, f"{server.url}/nowhere")
        assert status == 404 and answer["error"]["message"]


async def test_a_full_queue_is_429_and_want_of_memory_503(http: aiohttp.ClientSession) -> None:
    call = {"tool": "echo", "arguments": {"text": "hi"}}
    full = Admission(most=1, queue=0, memory=lambda: 1e6)
    async with running(Echo(), admission=full) as server, full.place():
        status, answer, after = await ask(http, f"{server.url}/v1/calls", call)
        assert status == 429 and answer["error"]["queue_full"] and int(after) >= 1
        assert (await metrics(http, server))["refused_total,ServerBusy"] == 1
    async with running(Echo(), admission=Admission(memory=lambda: 1.0)) as server:
        status, answer, after = await ask(http, f"{server.url}/v1/calls", call)
        assert status == 503 and "memory" in answer["error"]["message"] and int(after) >= 1


async def test_a_token_guards_everything_but_health(http: aiohttp.ClientSession) -> None:
    async with running(Echo(), token="secret") as server:
        for path in ("/v1/tools", "/metrics", "/openapi.json", "/ready", "/nowhere"):
            for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
                assert (await ask(http, server.url + path, method="GET", headers=shown))[0] == 401
        right = {"Authorization": "Bearer secret"}
        assert (await ask(http, f"{server.url}/v1/tools", method="GET", headers=right))[0] == 200
        assert (await ask(http, f"{server.url}/health", method="GET"))[0] == 200


async def test_metrics_count_what_happened(http: aiohttp.ClientSession) -> None:
    async with running(Echo()) as server:
        await ask(http, f"{server.url}/v1/sessions/s")
        for text in ("a", "b", "raise"):
            call = {"tool": "echo", "arguments": {"text": text}, "id": text}
            for _ in range(2):  # a repeated request is no further call
                await ask(http, f"{server.url}/v1/sessions/s/calls", call)
        await ask(http, f"{server.url}/v1/calls", {"tool": "made-up"})
        await ask(http, f"{server.url}/v1/sessions/gone/calls", {"tool": "echo"})
        seen = await metrics(http, server)
        assert seen["calls_total,ok,echo"] == 2 and seen["calls_total,raised,echo"] == 1
        assert seen["calls_total,unknown,unknown"] == 1 and "calls_total,unknown,made-up" not in seen
        assert seen["call_seconds_count,echo"] == 3 and seen["queue_seconds_count"] == 4
        assert seen["refused_total,SessionLost"] == 1
        assert seen["sessions"] == 1 and seen["calls_running"] == seen["calls_waiting"] == 0
        assert seen["calls_limit"] == server.host.admission.capacity.limit


def references(part: object) -> list[str]:
    """All that a description refers to."""
    if isinstance(part, list):
        return [each for item in part for each in references(item)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [each for item in part.values() for each in references(item)]


async def test_the_description_is_of_what_is_served(http: aiohttp.ClientSession) -> None:
    async with running(Echo()) as server:
        _, described, _ = await ask(http, f"{server.url}/openapi.json", method="GET")
        routes = list(make_app(server.host, protocols=protocol_routes(server.host)).router.routes())
    served = {
        (route.resource.canonical, "post" if route.method == "*" else route.method.lower())
        for route in routes
        if route.resource is not None and route.method not in ("HEAD", "OPTIONS")
    }
    assert served == {(path, method) for path, methods in described["paths"].items() for method in methods}
    assert described["openapi"] == "3.1.0" and set(described["info"]) >= {"title", "version"}
    assert "/v1/sessions/{session}/calls" in described["paths"]
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert operation["summary"] and operation["responses"]
            assert all(each["description"] for each in operation["responses"].values())
            named_in_path = {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert {each["name"] for each in operation.get("parameters", [])} == named_in_path
    assert references(described)
    for reference in references(described):
        place: Any = described
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place["type"] == "object"


async def test_a_hundred_callers_that_go_away_leave_nothing(http: aiohttp.ClientSession) -> None:
    async with running("code{seconds: 600}") as server:
        body = {"tool": "code", "arguments": {"code": naming_itself("abandoned")}}
        calls = [asyncio.ensure_future(ask(http, f"{server.url}/v1/calls", body)) for _ in range(100)]
        place = server.host.admission
        await until(lambda: named("abandoned") and place.running + place.waiting == 100)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await until(lambda: not (place.running or place.waiting or named("abandoned")))
        after = await ask(http, f"{server.url}/v1/calls", {"tool": "code", "arguments": {"code": "print(1)"}})
        assert after[1]["observation"]["text"] == "1\n"


async def test_told_to_end_it_finishes_what_runs_and_takes_nothing_new(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "gate.py").write_text(GATE)
    began, release = tmp_path / "began", tmp_path / "release"
    async with process(str(tmp_path / "gate.py"), "code{seconds: 600}") as (url, server):
        gate = {"tool": "gate", "arguments": {"began": str(began), "release": str(release)}}
        await ask(http, f"{url}/v1/calls", {"tool": "code", "arguments": {"code": "print(1)"}})
        running = asyncio.ensure_future(ask(http, f"{url}/v1/calls", gate))
        await until(began.exists)
        children = psutil.Process(server.pid).children(recursive=True)
        server.send_signal(signal.SIGTERM)
        while (await ask(http, f"{url}/ready", method="GET"))[0] != 503:
            await asyncio.sleep(0.01)
        status, answer, after = await ask(http, f"{url}/v1/calls", gate)
        assert status == 503 and "ending" in answer["error"]["message"] and int(after) >= 1
        release.touch()
        status, answer, _ = await running
        assert status == 200 and answer["observation"]["text"] == "through"
        assert await server.wait() == 0
        await until(lambda: not any(child.is_running() for child in children))


async def test_killed_in_mid_call_it_leaves_no_process(http: aiohttp.ClientSession) -> None:
    async with process("code{seconds: 600}") as (url, server):
        body = {"tool": "code", "arguments": {"code": naming_itself("orphan")}}
        call = asyncio.ensure_future(ask(http, f"{url}/v1/calls", body))
        await until(lambda: named("orphan") or call.done())
        children = psutil.Process(server.pid).children(recursive=True)
        assert children and named("orphan")
        server.kill()
        with pytest.raises(aiohttp.ClientError):
            await call
        await until(lambda: not named("orphan") and not any(child.is_running() for child in children))


async def test_a_call_is_logged_as_one_object_without_what_it_was_given(http: aiohttp.ClientSession) -> None:
    async with process("code{seconds: 600}", log="json") as (url, server):
        body = {"tool": "code", "arguments": {"code": "print('pass' + 'word-7')"}, "id": "c1"}
        assert (await ask(http, f"{url}/v1/calls", body))[1]["observation"]["text"] == "password-7\n"
        server.send_signal(signal.SIGTERM)
        assert server.stderr is not None
        lines = (await server.stderr.read()).decode()
    assert "password-7" not in lines and "'pass'" not in lines
    [line] = [line for line in map(json.loads, lines.splitlines()) if line["message"] == "call"]
    assert (line["tool"], line["call"], line["status"], line["level"]) == ("code", "c1", "ok", "info")
    assert line["seconds"] > 0 and line["queue_seconds"] >= 0 and line["time"].endswith("Z")


async def test_it_refuses_to_listen_to_a_network_without_a_token() -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentrl.cli", "serve", "--host", "0.0.0.0", "--port", "0",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await server.communicate()
    assert server.returncode == 2 and output == b"" and b"AGENTRL_TOKEN" in errors


@pytest.mark.parametrize(
    ("address", "token", "open_to_all"),
    [
        ("127.0.0.1", None, False),
        ("::1", None, False),
        ("localhost", None, False),
        ("0.0.0.0", "t", False),
        ("::", None, True),
        ("10.0.0.1", "", True),
        ("example.org", None, True),
    ],
)
def test_only_loopback_needs_no_token(address: str, token: str | None, open_to_all: bool) -> None:
    if open_to_all:
        with pytest.raises(ConfigError, match="token"):
            check_address(address, token)
    else:
        check_address(address, token)


async def test_an_address_in_use_is_told() -> None:
    async with running(Echo()) as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1 port {port}"):
            async with listening(make_app(server.host), "127.0.0.1", port):
                pass


def test_tools_take_options_and_say_which() -> None:
    [tool] = make_tools(["code{seconds: 1}"])
    assert tool.name == "code" and vars(tool)["most_seconds"] == 1
    with pytest.raises(ConfigError, match="second"):
        make_tools(["code{second: 1}"])
    with pytest.raises(ConfigError, match="not valid YAML"):
        make_tools(["code{seconds: [}"])
    with pytest.raises(ConfigError, match="names no tool"):
        make_tools(["{seconds: 1}"])
    with pytest.raises(NotFound, match="code"):
        make_tools(["cod{seconds: 1}"])


async def test_the_sandbox_is_opened_with_its_options() -> None:
    host = make_host(ServeSettings(tools=["code"], sandbox="remote{servers: ['http://127.0.0.1:9']}"))
    assert host.sandbox is not None and host.sandbox.name == "remote"
    with pytest.raises(ConfigError, match="color"):
        make_host(ServeSettings(tools=["code"], sandbox="namespace{color: blue}"))

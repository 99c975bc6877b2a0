"""A real server for tests: tools, the sandbox, and the application on a port of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from aiohttp import web

from agentrl.sandbox import Sandbox, open_sandbox
from agentrl.serve.app import BODY_BYTES, make_app
from agentrl.serve.host import CallAnswer, CallRequest
from agentrl.serve.local import LocalHost, SessionLimits
from agentrl.serve.server import listening, make_tools, protocol_routes
from agentrl.task import Task
from agentrl.tool import Tool


@dataclass(frozen=True)
class Running:
    """A server that takes calls."""

    url: str
    host: LocalHost


@asynccontextmanager
async def running(*tools: Tool | str, token: str | None = None, **options: Any) -> AsyncIterator[Running]:
    """A server of these tools, all protocols included; ``options`` are the host's."""
    made = [tool if isinstance(tool, Tool) else make_tools([tool])[0] for tool in tools]
    async with LocalHost(made, open_sandbox(), **options) as host:
        app = make_app(host, token=token, metrics=host.metrics, protocols=protocol_routes(host))
        async with listening(app, "127.0.0.1", 0) as url:
            yield Running(url, host)


class Recording(LocalHost):
    """A host that remembers its calls, and which sessions began and ended. Abandoned calls end at once."""

    def __init__(self, tools: Sequence[Tool], sandbox: Sandbox | None = None) -> None:
        super().__init__(tools, sandbox, limits=SessionLimits(grace_seconds=0))
        self.calls: list[CallRequest] = []
        self.opened: list[str] = []
        self.ended: asyncio.Queue[str] = asyncio.Queue()

    async def open(self, session: str, *, task: Task | None = None, tools: Sequence[str] = ()) -> None:
        await super().open(session, task=task, tools=tools)
        if session not in self.opened:
            self.opened.append(session)

    async def call(self, request: CallRequest) -> CallAnswer:
        self.calls.append(request)
        return await super().call(request)

    async def end(self, session: str) -> None:
        self.ended.put_nowait(session)
        await super().end(session)


@asynccontextmanager
async def answering(routes: Iterable[web.RouteDef]) -> AsyncIterator[str]:
    """One protocol's routes alone, at an address; yields its URL."""
    app = web.Application(client_max_size=BODY_BYTES)
    app.add_routes(list(routes))
    async with listening(app, "127.0.0.1", 0) as url:
        yield url


@asynccontextmanager
async def process(*words: str, log: str = "none") -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """``agentrl serve`` in a process of its own, on a free port; killed in the end."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentrl.cli", "serve", *words, "--port", "0", "--log", log,
        stdout=asyncio.subprocess.PIPE, stderr=None if log == "none" else asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        line = (await server.stdout.readline()).decode()
        yield line.split()[-1], server
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that nothing tells of."""
    while not condition():
        await asyncio.sleep(0.01)


def naming_itself(name: str) -> str:
    """A program that never ends, in a process of this name (at most 15 bytes)."""
    return f"import ctypes, time\nctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\ntime.sleep(1000)"


def named(name: str) -> list[int]:
    """The processes of this name, in sandboxes or out of them."""
    return [each.pid for each in psutil.process_iter(["name"]) if each.info["name"] == name]

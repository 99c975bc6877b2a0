"""Sandbox servers for tests: in a process of their own, or in this one; and a connection that breaks."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from agentrl.errors import ToolError
from agentrl.sandbox import Limits, Sandbox, Status
from agentrl.serve.app import make_app
from agentrl.serve.local import LocalHost
from agentrl.serve.protocols.sandbox import routes
from agentrl.serve.sandboxes import SandboxSessions
from agentrl.serve.server import listening

_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 60.0


@asynccontextmanager
async def server_process() -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """`agentrl serve` in a process of its own: its address, and the process, which ends with this."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agentrl.cli", "serve", "code", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(_START_SECONDS):
            line = (await process.stdout.readline()).decode()
        yield line.split()[-1], process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def serving(sessions: SandboxSessions, token: str | None = None) -> AsyncIterator[str]:
    """These sessions on a port of this process; yields the address."""
    async with LocalHost([]) as host:
        app = make_app(host, token=token, protocols=routes(sessions))
        try:
            async with listening(app, "127.0.0.1", 0) as url:
                yield url
        finally:
            await sessions.close()


class Breaking:
    """Passes connections on to a server. Once, for the first request to ``path``, it hangs up:
    before the answer has come if ``early``, else after it was sent, and before any of it is passed on."""

    def __init__(self, url: str, path: str, *, early: bool) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._to, self._mark, self._early = (host, int(port)), f"{path} HTTP".encode(), early
        self.broken = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Take connections; yields the address."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, onward = await asyncio.open_connection(*self._to)
        breaks = False

        async def requests() -> None:
            nonlocal breaks
            while data := await reader.read(1 << 16):
                breaks = not self.broken and self._mark in data
                self.broken += breaks
                onward.write(data)
                if breaks and self._early:
                    return

        async def answers() -> None:
            while (data := await upstream.read(1 << 16)) and not breaks:
                writer.write(data)

        tasks = {asyncio.ensure_future(requests()), asyncio.ensure_future(answers())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            writer.close()
            onward.close()


@asynccontextmanager
async def fusion_server(sandbox: Sandbox) -> AsyncIterator[str]:
    """A server of SandboxFusion's ``/run_code``, written from the protocol: an empty folder for each call,
    files of 1 MiB at most."""

    async def run_code(request: web.Request) -> web.Response:
        wanted = await request.json()
        limits = Limits(wall_seconds=wanted["run_timeout"], output_bytes=1 << 20)
        async with await sandbox.create(limits) as session:
            for path, data in wanted["files"].items():
                await session.put(path, base64.b64decode(data))
            call = session.run_script if wanted["language"] == "python" else session.exec
            result = await call(wanted["code"], stdin=(wanted.get("stdin") or "").encode())
            files = {}
            for path in wanted["fetch_files"]:
                try:
                    files[path] = base64.b64encode(await session.get(path, 1 << 20)).decode()
                except ToolError:
                    continue
        late = result.status is Status.timeout
        ran = {
            "status": "TimeLimitExceeded" if late else "Finished",
            "execution_time": result.seconds,
            "return_code": result.exit_code,
            "stdout": result.stdout,
            "stderr": result.stderr,
        }
        status = "Success" if result.exit_code == 0 else "Failed"
        return web.json_response({"status": status, "message": "", "run_result": ran, "files": files})

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/run_code", run_code)
    async with listening(app, "127.0.0.1", 0) as url:
        yield url

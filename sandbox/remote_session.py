"""A session on a sandbox server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from agentrl.errors import InfrastructureError, SandboxError, SessionLost, ToolError

from .protocol import Limits, Result, Session
from .remote_servers import Servers, Unreachable
from .wire_http import CONTENT_TYPE, SESSIONS, pack, text_bytes, to_result, unpack

FILE_SECONDS = 60.0
CLOSE_SECONDS = 30.0
_HEADERS = {"Content-Type": CONTENT_TYPE}


class RemoteSession(Session):
    """One session of a RemoteSandbox; made by its `create`.

    Args:
        name: a name of it on our side.
        secret: its name on the server; whoever knows it can use the session.
        server: where it is.
        servers: reaches that.
        limits: its limits.
        slack: seconds that an answer may take beyond the wall limit, the server's queue included.
        forget: told when it is over.
    """

    def __init__(
        self,
        name: str,
        secret: str,
        server: str,
        servers: Servers,
        limits: Limits,
        slack: float,
        forget: Callable[[RemoteSession], None],
        adopt: Callable[[str, str, Limits], RemoteSession],
    ) -> None:
        self._id, self._path = name, f"{SESSIONS}/{quote(secret)}"
        self.server, self._servers = server, servers
        self._limits, self._slack, self._forget, self._adopt = limits, slack, forget, adopt
        self._calling = asyncio.Lock()  # calls reach the server in the order in which they were made
        self._lost = ""
        self._closing: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self._id

    async def run_cell(self, code: str, *, wall_seconds: float | None = None) -> Result:
        return await self._run("cell", {}, text_bytes(code), b"", wall_seconds)

    async def exec(
        self, command: Sequence[str] | str, *, stdin: bytes = b"", wall_seconds: float | None = None
    ) -> Result:
        if isinstance(command, str):
            return await self._run("exec", {}, text_bytes(command), stdin, wall_seconds)
        argv = [text_bytes(argument).decode() for argument in command]
        return await self._run("exec", {"argv": argv}, b"", stdin, wall_seconds)

    async def run_script(self, code: str, *, stdin: bytes = b"", wall_seconds: float | None = None) -> Result:
        return await self._run("script", {}, text_bytes(code), stdin, wall_seconds)

    async def put(self, path: str, data: bytes) -> None:
        if len(data) > self._limits.disk_mb << 20:
            raise ToolError(
                f"{path}: {len(data)} bytes do not fit into the sandbox's {self._limits.disk_mb} MB"
            )
        await self._ask("put", {"path": text_bytes(path).decode()}, data, seconds=FILE_SECONDS)

    async def get(self, path: str, max_bytes: int = 1 << 20) -> bytes:
        header = {"path": text_bytes(path).decode(), "max_bytes": max_bytes}
        _, parts = await self._ask("get", header, seconds=FILE_SECONDS)
        if len(parts) != 1:
            raise SandboxError(f"{self.server} answered get with {len(parts)} files")
        return parts[0]

    async def fork(self) -> RemoteSession:
        header, _ = await self._ask("fork", {}, seconds=FILE_SECONDS)
        if not isinstance(header.get("session"), str):
            raise SandboxError(f"{self.server} made a session and does not say which")
        return self._adopt(header["session"], self.server, self._limits)

    async def _run(
        self, operation: str, header: dict[str, Any], code: bytes, stdin: bytes, wall: float | None
    ) -> Result:
        seconds = self._limits.wall_seconds if wall is None else wall
        return to_result(*await self._ask(operation, {**header, "wall": wall}, code, stdin, seconds=seconds))

    async def _ask(
        self, operation: str, header: dict[str, Any], *parts: bytes, seconds: float
    ) -> tuple[dict[str, Any], list[bytes]]:
        """A call, run at most once however often it has to be sent."""
        deadline = seconds + self._slack
        message = pack({"id": secrets.token_hex(16), "seconds": deadline, **header}, *parts)
        async with self._calling:
            self._usable()
            try:
                answer = await self._servers.send(
                    "POST",
                    self.server,
                    f"{self._path}/{operation}",
                    message,
                    seconds=deadline + 1.0,  # the server, which has the same deadline, can tell more
                    headers=_HEADERS,
                )
            except asyncio.CancelledError:
                self._lose("a call was cancelled")
                raise
            except SessionLost as problem:
                self._lost = str(problem)
                raise
            except Unreachable as problem:
                self._lose(str(problem))
                raise SessionLost(f"session {self._id} is gone, with what it held: {problem}") from problem
            except TimeoutError as problem:
                self._lose(f"{self.server} did not answer in {deadline:.0f} s")
                raise SessionLost(f"session {self._id} is gone: {self._lost}") from problem
        return unpacked(answer, self.server)

    def _usable(self) -> None:
        if self._closing is not None and not self._lost:
            raise SessionLost(f"session {self._id} is closed")
        if self._lost:
            raise SessionLost(f"session {self._id} is gone: {self._lost}")

    def _lose(self, why: str) -> None:
        """Nothing can be known of its state any more: end it, without waiting for that."""
        self._lost = why
        self.begin_closing()

    def begin_closing(self) -> asyncio.Task[None]:
        """End it in the background; a task to wait for."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._end())
        return self._closing

    async def close(self) -> None:
        await asyncio.shield(self.begin_closing())

    async def _end(self) -> None:
        try:
            await self._servers.send("DELETE", self.server, self._path, seconds=CLOSE_SECONDS)
        except (InfrastructureError, TimeoutError):
            pass  # the server is gone, and the session with it; or it ends the session when its time is over
        finally:
            self._forget(self)


def unpacked(answer: bytes, server: str) -> tuple[dict[str, Any], list[bytes]]:
    """A server's message.

    Raises:
        SandboxError: it is none.
    """
    try:
        return unpack(answer)
    except ValueError as problem:
        raise SandboxError(f"{server} answered with something that is no message: {problem}") from problem

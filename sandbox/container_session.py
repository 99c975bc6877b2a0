"""The host's side of one session in a container."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from agentrl.errors import ConfigError, SandboxError, SessionLost, ToolError

from . import container_daemon
from .container_stream import ContainerStream
from .guest import wire
from .protocol import Limits, Result, Session, Status

if TYPE_CHECKING:
    import docker

logger = logging.getLogger(__name__)

_START_SECONDS = 120.0
_FILE_SECONDS = 60.0
_GRACE_SECONDS = 0.8  # what the agent gets beyond the wall limit before the container is killed
_MAX_COMMAND, _MAX_INPUT = 100_000, 64 << 20
_T = TypeVar("_T")
_GONE = "the session is gone, with its files and variables"


class ContainerSession(Session):
    """One session of a DockerSandbox; made by its `create`."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        client: docker.DockerClient,
        forget: Callable[[ContainerSession], None],
        copy: Callable[[bytes], Awaitable[ContainerSession]],
    ) -> None:
        self._id, self._limits, self._client, self._forget, self._copy = name, limits, client, forget, copy
        self._calling = asyncio.Lock()
        self._stream: ContainerStream | None = None
        self._lost = ""  # why the guest's session ended, if it has
        self._closing: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self._id

    async def start(self, preload: Sequence[str], **options: Any) -> None:
        """Make the container, attach to it, start it, and have its agent ready."""
        await _finished(
            asyncio.to_thread(container_daemon.create, self._client, self._id, self._limits, **options)
        )
        sock = await _finished(asyncio.to_thread(container_daemon.attach, self._client, self._id))
        self._stream = await ContainerStream.over(sock)
        setup = {"limits": asdict(self._limits), "preload": list(preload)}
        try:
            async with asyncio.timeout(_START_SECONDS):
                header, _ = await self._stream.ask(setup)
        except TimeoutError:
            raise SandboxError(f"a container did not start in {_START_SECONDS:.0f} s") from None
        except (EOFError, ConnectionError, wire.FrameError) as error:
            raise SandboxError(
                f"a container ended before it was ready: {self._stream.errors.strip() or error}"
            ) from error
        if "preload" in header:
            raise ConfigError(f"a module to preload cannot be imported in the container: {header['preload']}")
        if "ready" not in header:
            raise SandboxError(f"a container could not be set up: {header.get('failed', header)}")

    # ---- calls

    async def run_cell(self, code: str, *, wall_seconds: float | None = None) -> Result:
        return await self._run({"op": "cell"}, code.encode(errors="replace"), wall_seconds)

    async def exec(
        self, command: Sequence[str] | str, *, stdin: bytes = b"", wall_seconds: float | None = None
    ) -> Result:
        argv = ["/bin/bash", "-c", command] if isinstance(command, str) else list(command)
        if not argv or any("\0" in argument for argument in argv):
            raise ToolError("a command needs a program to run, and no NUL characters")
        if sum(len(argument) for argument in argv) > _MAX_COMMAND:
            raise ToolError(f"a command may have {_MAX_COMMAND} characters: put the rest into a file")
        return await self._run({"op": "exec", "argv": argv}, stdin, wall_seconds)

    async def run_script(self, code: str, *, stdin: bytes = b"", wall_seconds: float | None = None) -> Result:
        text = code.encode(errors="replace")
        request = {"op": "script", "language": "python", "size": len(text)}
        return await self._run(request, text + stdin, wall_seconds)

    async def put(self, path: str, data: bytes) -> None:
        if len(data) > self._limits.disk_mb << 20:
            raise ToolError(
                f"{path}: {len(data)} bytes do not fit into the sandbox's {self._limits.disk_mb} MB"
            )
        await self._file({"op": "put", "path": path}, data)

    async def get(self, path: str, max_bytes: int = 1 << 20) -> bytes:
        return await self._file({"op": "get", "path": path, "max_bytes": max_bytes}, b"")

    async def fork(self) -> ContainerSession:
        return await self._copy(await self._file({"op": "pack"}, b""))

    async def unpack(self, files: bytes) -> None:
        """Begin with the files that another session's `fork` took."""
        await self._file({"op": "unpack"}, files)

    async def _run(self, request: dict[str, Any], body: bytes, wall_seconds: float | None) -> Result:
        if len(body) > _MAX_INPUT:
            raise ToolError(f"{len(body)} bytes of input are more than the {_MAX_INPUT} that a call may have")
        wall = self._limits.wall_seconds if wall_seconds is None else wall_seconds
        async with self._calling:
            self._usable()
            if self._lost:
                return _ended(self._lost)
            try:
                header, output = await self._ask(request | {"wall": wall}, body, wall + _GRACE_SECONDS)
            except TimeoutError:
                self._lose(f"killed after {wall:.1f} s of wall time: it kept the agent from answering")
                return _ended(self._lost, Status.timeout, wall)
            except (EOFError, ConnectionError):
                self._usable()
                self._lose("its container ended")
                return _ended(self._lost)
            return self._result(header, output)

    async def _file(self, request: dict[str, Any], body: bytes) -> bytes:
        async with self._calling:
            self._usable()
            if self._lost:
                raise SessionLost(f"session {self._id}: {self._lost}")
            try:
                header, data = await self._ask(request, body, _FILE_SECONDS)
            except (EOFError, ConnectionError, TimeoutError) as error:
                self._usable()
                self._lose("it stopped answering")
                raise SessionLost(f"session {self._id} was lost during {request['op']}") from error
        if "refused" in header:
            raise ToolError(f"{request.get('path', 'fork')}: {header['refused']}")
        return data

    async def _ask(
        self, request: dict[str, Any], body: bytes, seconds: float
    ) -> tuple[dict[str, Any], bytes]:
        assert self._stream is not None
        try:
            async with asyncio.timeout(seconds):
                return await self._stream.ask(request, body)
        except asyncio.CancelledError:
            self._lose("a call was cancelled")  # its answer would be taken for that of the next
            raise
        except wire.FrameError as error:
            self._lose("it broke the protocol")
            raise SandboxError(
                f"session {self._id} answered with something that is no frame: {error}"
            ) from error

    def _usable(self) -> None:
        if self._closing is not None:
            raise SessionLost(f"session {self._id} is closed")

    def _result(self, header: dict[str, Any], output: bytes) -> Result:
        try:
            status, detail, split = (
                Status(header["status"]),
                str(header["detail"]),
                int(header["stdout_bytes"]),
            )
            if header["oom_kills"] > 0 and status in (Status.crashed, Status.error):
                status = Status.oom
                detail = f"out of memory: the limit is {self._limits.memory_mb} MB; {detail}"
            code = header["exit_code"]
            return Result(
                status=status,
                stdout=output[:split].decode(errors="replace"),
                stderr=output[split:].decode(errors="replace"),
                exit_code=None if code is None else int(code),
                seconds=float(header["seconds"]),
                truncated=bool(header["truncated"]),
                detail=detail,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SandboxError(f"a session answered with an incomplete result: {error!r}") from error

    # ---- end

    def _lose(self, why: str) -> None:
        self._lost = f"{why}; {_GONE}"
        if self._stream is not None:
            self._stream.abort()  # its agent ends at this, and its container with it

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._end())
        await asyncio.shield(self._closing)

    async def _end(self) -> None:
        try:
            if self._stream is not None:
                self._stream.abort()
            await asyncio.to_thread(container_daemon.remove, self._client, self._id)
        except SandboxError as error:
            logger.warning("%s", error)
        finally:
            self._forget(self)


async def _finished(work: Awaitable[_T]) -> _T:
    """Wait for a thread's work even if cancelled: it would go on, and make what nobody then removes."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _ended(detail: str, status: Status = Status.session_lost, seconds: float = 0.0) -> Result:
    return Result(status, "", "", None, seconds, False, detail)

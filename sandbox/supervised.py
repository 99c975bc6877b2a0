"""The host's side of a session that a supervisor inside it serves: it waits no longer than it must, and
believes little. What carries the frames, and what the session is made of, is its backend's."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from agentrl.errors import SandboxError, SessionLost, ToolError

from .guest import wire
from .protocol import Language, Limits, Result, Session, Status

_FILE_SECONDS = 60.0
_GRACE_SECONDS = 0.8  # what the supervisor gets beyond the wall limit before the whole session is killed
_MAX_COMMAND, _MAX_INPUT = 100_000, 64 << 20
_GONE = "the session is gone, with its files and variables"


class SupervisedSession(Session):
    """One session; made by the `create` of its sandbox."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._id, self._limits = name, limits
        self._calling = asyncio.Lock()
        self._lost = ""  # why the guest's session ended, if it has
        self._closing: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self._id

    @property
    def limits(self) -> Limits:
        return self._limits

    # ---- what a backend says

    @abstractmethod
    async def _exchange(
        self, request: dict[str, Any], body: bytes, fd: int | None
    ) -> tuple[dict[str, Any], bytes]:
        """Send a frame, with a descriptor where that can be, and receive one. Raises EOFError or
        ConnectionError when the supervisor is gone, and FrameError if it breaks the protocol."""

    @abstractmethod
    def _kill(self) -> None:
        """End the session's processes at once."""

    @abstractmethod
    async def _end(self) -> None:
        """Leave nothing of the session behind."""

    def _usable(self) -> None:
        if self._closing is not None:
            raise SessionLost(f"session {self._id} is closed")

    async def _confirm_loss(self) -> None:
        """Raises SessionLost if the supervisor has gone because more than this session has ended."""
        self._usable()

    def _oom_kills(self) -> int:
        """How many of the session's processes have been ended for memory, as far as the host can tell."""
        return 0

    def _out_of_memory(self, header: dict[str, Any], kills: int) -> bool:
        """Whether a call lost a process to the memory limit, ``kills`` having been lost before it."""
        return self._oom_kills() > kills

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
        return await self.run_program("python", code, stdin=stdin, wall_seconds=wall_seconds)

    async def run_program(
        self, language: Language, code: str, *, stdin: bytes = b"", wall_seconds: float | None = None
    ) -> Result:
        """Run Python as `run_script` does, or a bash script; neither stays in the supervisor's memory."""
        text = code.encode(errors="replace")
        if language == "bash" and len(text) > _MAX_COMMAND:
            raise ToolError(f"a bash script may have {_MAX_COMMAND} bytes: put the rest into a file")
        request = {"op": "script", "language": language, "size": len(text)}
        return await self._run(request, text + stdin, wall_seconds)

    async def put(self, path: str, data: bytes) -> None:
        if len(data) > self._limits.disk_mb << 20:
            raise ToolError(
                f"{path}: {len(data)} bytes do not fit into the sandbox's {self._limits.disk_mb} MB"
            )
        await self._file({"op": "put", "path": path}, data)

    async def get(self, path: str, max_bytes: int = 1 << 20) -> bytes:
        return await self._file({"op": "get", "path": path, "max_bytes": max_bytes}, b"")

    async def _run(self, request: dict[str, Any], body: bytes, wall_seconds: float | None) -> Result:
        if len(body) > _MAX_INPUT:
            raise ToolError(f"{len(body)} bytes of input are more than the {_MAX_INPUT} that a call may have")
        wall = request["wall"] = self._limits.wall_seconds if wall_seconds is None else wall_seconds
        async with self._calling:
            self._usable()
            if self._lost:
                return _lost_result(self._lost)
            kills = self._oom_kills()
            try:
                header, output = await self._ask(request, body, wall + _GRACE_SECONDS)
            except TimeoutError:
                self._lose(f"killed after {wall:.1f} s of wall time: it kept the supervisor from answering")
                return _lost_result(self._lost, Status.timeout, wall)
            except (EOFError, ConnectionError) as error:
                await self._confirm_loss()
                if self._out_of_memory({}, kills):
                    self._lose("out of memory")
                    return _lost_result(self._lost, Status.oom)
                self._lose(f"its first process ended ({error})")
                return _lost_result(self._lost)
        result = _result(header, output)
        return self._judged(header, result, kills)

    def _judged(self, header: dict[str, Any], result: Result, kills: int) -> Result:
        """The result of a call whose end may have been the memory limit's doing."""
        if result.status in (Status.crashed, Status.error) and self._out_of_memory(header, kills):
            detail = f"out of memory: the limit is {self._limits.memory_mb} MB; {result.detail}"
            return Result(**{**vars(result), "status": Status.oom, "detail": detail})
        return result

    async def _file(self, request: dict[str, Any], body: bytes) -> bytes:
        what = f"{request['op']} of {request['path']}" if "path" in request else str(request["op"])
        async with self._calling:
            self._usable()
            if self._lost:
                raise SessionLost(f"session {self._id}: {self._lost}")
            try:
                header, data = await self._ask(request, body, _FILE_SECONDS)
            except (EOFError, ConnectionError, TimeoutError) as error:
                self._usable()
                self._lose("it stopped answering")
                raise SessionLost(f"session {self._id} was lost during {what}") from error
        if "refused" in header:
            raise ToolError(f"{request.get('path', request['op'])}: {header['refused']}")
        return data

    async def _ask(
        self, request: dict[str, Any], body: bytes, seconds: float, fd: int | None = None
    ) -> tuple[dict[str, Any], bytes]:
        self._usable()
        try:
            async with asyncio.timeout(seconds):
                header, answer = await self._exchange(request, body, fd)
        except asyncio.CancelledError:
            self._lose("a call was cancelled")  # its answer would be taken for that of the next
            raise
        except wire.FrameError as error:
            self._lose("it broke the protocol")
            raise SandboxError(
                f"session {self._id} answered with something that is no frame: {error}"
            ) from error
        if "failed" in header:
            raise EOFError(header["failed"])
        return header, answer

    # ---- end

    def _lose(self, why: str) -> None:
        self._lost = f"{why}; {_GONE}"
        self._kill()

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._end())
        await asyncio.shield(self._closing)


def _result(header: dict[str, Any], output: bytes) -> Result:
    try:
        split = int(header["stdout_bytes"])
        code = header["exit_code"]
        return Result(
            status=Status(header["status"]),
            stdout=output[:split].decode(errors="replace"),
            stderr=output[split:].decode(errors="replace"),
            exit_code=None if code is None else int(code),
            seconds=float(header["seconds"]),
            truncated=bool(header["truncated"]),
            detail=str(header["detail"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SandboxError(f"a session answered with an incomplete result: {error!r}") from error


def _lost_result(detail: str, status: Status = Status.session_lost, seconds: float = 0.0) -> Result:
    return Result(status, "", "", None, seconds, False, detail)

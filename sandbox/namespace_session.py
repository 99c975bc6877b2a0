"""The host's side of one session: it asks, waits no longer than it must, and believes little."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from agentrl.errors import SandboxError, SessionLost, ToolError

from . import handles
from .cgroups import Group
from .guest import wire
from .protocol import Language, Limits, Result, Session, Status
from .warm import Zygote, ZygoteGone, retried, when_ready

_START_SECONDS = 60.0
_FILE_SECONDS = 30.0
_GRACE_SECONDS = 0.8  # what the supervisor gets beyond the wall limit before the whole session is killed
_DEATH_SECONDS = 60.0  # a thousand sessions may be ending at once
_RETIRE_SECONDS = 5.0
_LEND_SECONDS = 10.0
_MAX_COMMAND, _MAX_INPUT = 100_000, 64 << 20
_GONE = "the session is gone, with its files and variables"


class Keeper(Protocol):
    """What a session needs of its sandbox."""

    async def branch(self, parent: NamespaceSession) -> NamespaceSession:
        """A new session that is a fork of another."""

    def forget(self, session: NamespaceSession) -> None:
        """A session has ended; what is left of it, if anything, is `NamespaceSession.shell`."""


class NamespaceSession(Session):
    """One session of a NamespaceSandbox; made by its `create`."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        zygote: Zygote,
        group: Group | None,
        keeper: Keeper,
    ) -> None:
        self._id, self._limits, self._zygote, self._group, self._keeper = name, limits, zygote, group, keeper
        self._calling = asyncio.Lock()
        self._pidfd = -1
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._stateless = self._clean = False
        self._socket: socket.socket | None = None
        self._parent: NamespaceSession | None = None
        self._forks: set[NamespaceSession] = set()
        self.shell: asyncio.Task[None] | None = None  # waits for the end of a closed session's forks
        self._lost = ""  # why the guest's session ended, if it has
        self._closing: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self._id

    @property
    def zygote(self) -> Zygote:
        """Where it comes from, and what it ends with."""
        return self._zygote

    # ---- beginning

    @property
    def limits(self) -> Limits:
        return self._limits

    async def start(self, *, stateless: bool = False, bridge: socket.socket | None = None) -> None:
        """Have the zygote make the session, and put it into its control group before anything runs in it.

        A ``stateless`` one is emptied after each `run_program`, and serves nothing else. With a ``bridge`` to
        another session's supervisor it is a fork of that one.
        """
        self._stateless = stateless
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                fds = [theirs.fileno()] + ([bridge.fileno()] if bridge else [])
                await self._zygote.request(asdict(self._limits), fds)
            async with asyncio.timeout(_START_SECONDS):
                await self._greet(ours)
        except TimeoutError:
            raise SandboxError(
                f"a session did not start in {_START_SECONDS:.0f} s: is this machine overloaded?"
            ) from None
        except (OSError, EOFError, wire.FrameError) as error:
            kind = SandboxError if self._zygote.fertile else ZygoteGone
            raise kind(f"a session could not be started: {type(error).__name__}: {error}") from error
        finally:
            if self._writer is None:
                ours.close()

    async def _greet(self, ours: socket.socket) -> None:
        data, fds, _, _ = await retried(lambda: socket.recv_fds(ours, wire.PREFIX.size, 1), ours.fileno())
        if fds:
            self._pidfd = fds[0]
        self._socket = ours
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        header, _ = await self._receive(data)
        if "failed" in header or not fds:
            raise SandboxError(f"a session could not be started: {header.get('failed', 'no handle on it')}")
        if self._group is not None:
            # moving a process can take the kernel 10 ms: not in the event loop
            await asyncio.to_thread(self._group.add, handles.pid_of(self._pidfd))
        self._writer.write(
            wire.encode({"memory_cgroup": self._group is not None, "stateless": self._stateless})
        )
        header, _ = await self._receive()
        if "ready" not in header:
            raise SandboxError(f"a session could not be set up: {header.get('failed', header)}")

    async def _receive(self, begun: bytes = b"") -> tuple[dict[str, Any], bytes]:
        assert self._reader is not None
        try:
            prefix = begun + await self._reader.readexactly(wire.PREFIX.size - len(begun))
            header_size, body_size = wire.lengths(prefix)
            header = wire.parse_header(await self._reader.readexactly(header_size))
            return header, await self._reader.readexactly(body_size)
        except asyncio.IncompleteReadError as error:
            raise EOFError("the session closed its connection") from error

    # ---- calls

    async def run_cell(self, code: str, *, wall_seconds: float | None = None) -> Result:
        wall = self._wall(wall_seconds)
        return await self._run({"op": "cell", "wall": wall}, code.encode(errors="replace"), wall)

    async def exec(
        self, command: Sequence[str] | str, *, stdin: bytes = b"", wall_seconds: float | None = None
    ) -> Result:
        argv = ["/bin/bash", "-c", command] if isinstance(command, str) else list(command)
        if not argv or any("\0" in argument for argument in argv):
            raise ToolError("a command needs a program to run, and no NUL characters")
        if sum(len(argument) for argument in argv) > _MAX_COMMAND:
            raise ToolError(f"a command may have {_MAX_COMMAND} characters: put the rest into a file")
        wall = self._wall(wall_seconds)
        return await self._run({"op": "exec", "wall": wall, "argv": argv}, stdin, wall)

    async def run_script(self, code: str, *, stdin: bytes = b"", wall_seconds: float | None = None) -> Result:
        return await self.run_program("python", code, stdin=stdin, wall_seconds=wall_seconds)

    async def run_program(
        self, language: Language, code: str, *, stdin: bytes = b"", wall_seconds: float | None = None
    ) -> Result:
        """Run Python as `run_script` does, or a bash script; neither stays in the supervisor's memory."""
        text = code.encode(errors="replace")
        if language == "bash" and len(text) > _MAX_COMMAND:
            raise ToolError(f"a bash script may have {_MAX_COMMAND} bytes: put the rest into a file")
        wall = self._wall(wall_seconds)
        request = {"op": "script", "language": language, "size": len(text), "wall": wall}
        return await self._run(request, text + stdin, wall)

    @property
    def clean(self) -> bool:
        """Whether the last call left the session as new."""
        return self._clean

    @property
    def alive(self) -> bool:
        """Whether it can serve a call, as far as one can tell without trying."""
        if self._lost or self._closing is not None or not self._zygote.alive:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    async def fork(self) -> NamespaceSession:
        async with self._calling:
            self._usable()
            if self._lost:
                raise SessionLost(f"session {self._id}: {self._lost}")
            return await self._keeper.branch(self)

    async def start_fork(self, parent: NamespaceSession) -> None:
        """Become a copy of ``parent``, which is waiting in its `fork`."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            header = await parent._answer({"op": "fork"}, ours.fileno())
            ours.close()  # the parent has it now: should that end, our zygote is to hear of it
            await self.start(bridge=theirs)
        self._parent = parent
        parent._forks.add(self)
        interpreter = bool(header["interpreter"])
        if interpreter:
            await parent._answer({"op": "lend", "wall": _LEND_SECONDS})
            if self._group is not None:  # a process comes in its parent's group
                for pid in handles.children_of(self._pidfd):
                    await asyncio.to_thread(self._group.add, pid)
        await self._answer({"op": "adopt", "interpreter": interpreter, "wall": _LEND_SECONDS})

    async def _answer(self, request: dict[str, Any], fd: int | None = None) -> dict[str, Any]:
        """Of a step of a fork. Raises ToolError if the guest's state does not allow it."""
        try:
            header, _ = await self._ask(request, b"", _START_SECONDS, fd)
        except (EOFError, ConnectionError, TimeoutError) as error:
            self._lose("it stopped answering")
            raise SessionLost(f"session {self._id} was lost while it was copied") from error
        if "refused" in header:
            raise ToolError(f"the session cannot be copied: {header['refused']}")
        return header

    async def put(self, path: str, data: bytes) -> None:
        if len(data) > self._limits.disk_mb << 20:
            raise ToolError(
                f"{path}: {len(data)} bytes do not fit into the sandbox's {self._limits.disk_mb} MB"
            )
        await self._file({"op": "put", "path": path}, data)

    async def get(self, path: str, max_bytes: int = 1 << 20) -> bytes:
        return await self._file({"op": "get", "path": path, "max_bytes": max_bytes}, b"")

    def _wall(self, seconds: float | None) -> float:
        return self._limits.wall_seconds if seconds is None else seconds

    async def _run(self, request: dict[str, Any], body: bytes, wall: float) -> Result:
        if len(body) > _MAX_INPUT:
            raise ToolError(f"{len(body)} bytes of input are more than the {_MAX_INPUT} that a call may have")
        async with self._calling:
            if self._lost:
                self._usable()
                return _lost_result(self._lost)
            # a session for stateless calls that has had one is not used again
            kills = 0 if self._stateless else self._oom_kills()
            self._clean = False
            try:
                header, output = await self._ask(request, body, wall + _GRACE_SECONDS)
                result = _result(header, output)
            except TimeoutError:
                self._lose(f"killed after {wall:.1f} s of wall time: it kept the supervisor from answering")
                return _lost_result(self._lost, Status.timeout, wall)
            except (EOFError, ConnectionError):
                await self._zygote_lives()
                out_of_memory = self._oom_kills() > kills
                self._lose("out of memory" if out_of_memory else "its first process ended")
                return _lost_result(self._lost, Status.oom if out_of_memory else Status.session_lost)
        limited = result.status in (Status.crashed, Status.error)
        out_of_memory = (limited or self._stateless) and self._oom_kills() > kills
        self._clean = header.get("clean") is True and not out_of_memory
        if limited and out_of_memory:
            detail = f"out of memory: the limit is {self._limits.memory_mb} MB; {result.detail}"
            return Result(**{**vars(result), "status": Status.oom, "detail": detail})
        return result

    async def _file(self, request: dict[str, Any], body: bytes) -> bytes:
        async with self._calling:
            if self._lost:
                self._usable()
                raise SessionLost(f"session {self._id}: {self._lost}")
            try:
                header, data = await self._ask(request, body, _FILE_SECONDS)
            except (EOFError, ConnectionError, TimeoutError) as error:
                self._lose("it stopped answering")
                raise SessionLost(
                    f"session {self._id} was lost during {request['op']} of {request['path']}"
                ) from error
        if "refused" in header:
            raise ToolError(f"{request['path']}: {header['refused']}")
        return data

    async def _ask(
        self, request: dict[str, Any], body: bytes, seconds: float, fd: int | None = None
    ) -> tuple[dict[str, Any], bytes]:
        self._usable()
        assert self._writer is not None and self._socket is not None
        try:
            async with asyncio.timeout(seconds):
                if fd is None:
                    self._writer.write(wire.encode(request, body))
                    await self._writer.drain()
                else:  # nothing else is on its way: the last request was answered
                    socket.send_fds(self._socket, [wire.encode(request, body)], [fd])
                header, answer = await self._receive()
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

    def _usable(self) -> None:
        if self._closing is not None:
            raise SessionLost(f"session {self._id} is closed")
        if not self._zygote.alive:
            raise SessionLost(f"session {self._id} is gone: the sandbox it belonged to has ended")

    async def _zygote_lives(self) -> None:
        if self._closing is not None or await self._zygote.gone(0.3):
            self._usable()

    def _oom_kills(self) -> int:
        return self._group.oom_kills() if self._group is not None else 0

    # ---- end

    def _lose(self, why: str) -> None:
        self._lost = f"{why}; {_GONE}"
        self._kill()

    def _kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._end())
        await asyncio.shield(self._closing)

    async def _end(self) -> None:
        try:
            if not (self._forks and await self._retire()):
                await self._bury()
        finally:
            if self._parent is not None:
                self._parent._forks.discard(self)
            self._keeper.forget(self)

    async def _retire(self) -> bool:
        """End the session's processes and free its files, but not the namespaces that its forks live in."""
        if self._reader is None or self._writer is None or self._lost:
            return False
        try:
            async with asyncio.timeout(_RETIRE_SECONDS):
                self._writer.write_eof()
                while await self._reader.read(1 << 16):
                    continue
        except (OSError, TimeoutError):
            return False
        self.shell = asyncio.create_task(self._bury(kill=False))
        return True

    async def _bury(self, *, kill: bool = True) -> None:
        try:
            if kill:
                self._kill()
            if self._writer is not None:
                self._writer.close()  # a supervisor we hold no handle on ends itself at this
            if self._pidfd >= 0:
                try:
                    async with asyncio.timeout(_DEATH_SECONDS if kill else None):
                        await when_ready(self._pidfd)  # the last process of its pid namespace is dead then
                except TimeoutError:
                    raise SandboxError(f"processes of session {self._id} outlive SIGKILL") from None
            if self._group is not None:
                await self._group.remove()
        finally:
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1


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

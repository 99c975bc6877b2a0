"""One session in namespaces of its own: its beginning, its forks and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
from dataclasses import asdict
from typing import Any, Protocol

from agentrl.errors import SandboxError, SessionLost, ToolError

from . import handles, view
from .cgroups import Group
from .channel import Channel
from .guest import wire
from .protocol import Language, Limits, Result
from .supervised import SupervisedSession
from .warm import Zygote, ZygoteGone, retried, when_ready

_START_SECONDS = 60.0
_DEATH_SECONDS = 60.0  # a thousand sessions may be ending at once
_RETIRE_SECONDS = 5.0
_LEND_SECONDS = 10.0


class Keeper(Protocol):
    """What a session needs of its sandbox."""

    async def branch(self, parent: NamespaceSession) -> NamespaceSession:
        """A new session that is a fork of another."""

    def forget(self, session: NamespaceSession) -> None:
        """A session has ended; what is left of it, if anything, is `NamespaceSession.shell`."""


class NamespaceSession(SupervisedSession):
    """One session of a NamespaceSandbox; made by its `create`."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        zygote: Zygote,
        group: Group | None,
        keeper: Keeper,
    ) -> None:
        super().__init__(name, limits)
        self._zygote, self._group, self._keeper = zygote, group, keeper
        self._pidfd = -1
        self._channel: Channel | None = None
        self._stateless = self._clean = False
        self._socket: socket.socket | None = None
        self._parent: NamespaceSession | None = None
        self._forks: set[NamespaceSession] = set()
        self.shell: asyncio.Task[None] | None = None  # waits for the end of a closed session's forks

    @property
    def zygote(self) -> Zygote:
        """Where it comes from, and what it ends with."""
        return self._zygote

    # ---- beginning

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
                wanted = asdict(self._limits) | {"hide": view.installed(self._limits.hide)}
                await self._zygote.request(wanted, fds)
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
            if self._channel is None:
                ours.close()

    async def _greet(self, ours: socket.socket) -> None:
        data, fds, _, _ = await retried(lambda: socket.recv_fds(ours, wire.PREFIX.size, 1), ours.fileno())
        if fds:
            self._pidfd = fds[0]
        self._socket = ours
        self._channel = await Channel.over(ours, data)
        header, _ = await self._channel.receive()
        if "failed" in header or not fds:
            raise SandboxError(f"a session could not be started: {header.get('failed', 'no handle on it')}")
        if self._group is not None:
            # moving a process can take the kernel 10 ms: not in the event loop
            await asyncio.to_thread(self._group.add, handles.pid_of(self._pidfd))
        self._channel.send({"memory_cgroup": self._group is not None, "stateless": self._stateless})
        header, _ = await self._channel.receive()
        if "ready" not in header:
            raise SandboxError(f"a session could not be set up: {header.get('failed', header)}")

    # ---- calls

    async def _exchange(
        self, request: dict[str, Any], body: bytes, fd: int | None
    ) -> tuple[dict[str, Any], bytes]:
        assert self._channel is not None and self._socket is not None
        if fd is None:
            self._channel.send(request, body)
        else:  # nothing else is on its way: the last request was answered
            socket.send_fds(self._socket, [wire.encode(request, body)], [fd])
        return await self._channel.receive()

    def _usable(self) -> None:
        super()._usable()
        if not self._zygote.alive:
            raise SessionLost(f"session {self._id} is gone: the sandbox it belonged to has ended")

    async def _confirm_loss(self) -> None:
        if self._closing is not None or await self._zygote.gone(0.3):
            self._usable()

    def _oom_kills(self) -> int:
        return self._group.oom_kills() if self._group is not None else 0

    async def run_program(
        self, language: Language, code: str, *, stdin: bytes = b"", wall_seconds: float | None = None
    ) -> Result:
        self._clean = False
        return await super().run_program(language, code, stdin=stdin, wall_seconds=wall_seconds)

    def _judged(self, header: dict[str, Any], result: Result, kills: int) -> Result:
        if self._stateless:
            self._clean = header.get("clean") is True and not self._out_of_memory(header, kills)
        return super()._judged(header, result, kills)

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

    # ---- end

    def _kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

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
        if self._channel is None or self._lost:
            return False
        try:
            async with asyncio.timeout(_RETIRE_SECONDS):
                await self._channel.finish()
        except (OSError, TimeoutError):
            return False
        self.shell = asyncio.create_task(self._bury(kill=False))
        return True

    async def _bury(self, *, kill: bool = True) -> None:
        try:
            if kill:
                self._kill()
            if self._channel is not None:
                self._channel.close()  # a supervisor we hold no handle on ends itself at this
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

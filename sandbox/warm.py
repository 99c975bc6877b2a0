"""The host's side of a zygote: starting it inside bubblewrap, asking it for sessions, noticing its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from agentrl.errors import ConfigError, SandboxError

from . import view

_START_SECONDS = 120.0  # a preload may be large
_FAREWELL_SECONDS = 2.0
_STOP_SECONDS = 10.0
_MAX_MESSAGE = 4096
_READY, _PRELOAD_FAILED = b"ready", b"preload: "

T = TypeVar("T")


async def when_ready(fd: int, *, write: bool = False) -> None:
    """Wait until a descriptor can be read (or written)."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(fd)


async def retried(operation: Callable[[], T], fd: int, *, write: bool = False) -> T:
    """Call a non-blocking operation again whenever ``fd`` becomes ready, until it does not block."""
    while True:
        try:
            return operation()
        except BlockingIOError:
            await when_ready(fd, write=write)


class ZygoteGone(SandboxError):
    """The zygote ended before it made a session; another may do better."""


class Zygote:
    """One warm process with its preloaded modules, and the bubblewrap around it. Made by `start`."""

    def __init__(
        self, process: asyncio.subprocess.Process, control: socket.socket, life: socket.socket
    ) -> None:
        self._process, self._control, self._life = process, control, life
        self._sending = asyncio.Lock()
        self._last_words = bytearray()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, bwrap: str, preload: tuple[str, ...]) -> Zygote:
        """Start one and wait until it is warm. Raises SandboxError, or ConfigError for a failing preload."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        life, their_life = socket.socketpair()
        command = view.zygote_command(bwrap, theirs.fileno(), their_life.fileno(), preload)
        try:
            process = await asyncio.create_subprocess_exec(
                *command.argv, env={}, cwd="/", pass_fds=command.fds, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            life.close()
            raise SandboxError(f"bubblewrap cannot be started from {command.argv[0]}: {error}") from error
        finally:
            theirs.close()
            their_life.close()
            for fd in command.fds[2:]:
                os.close(fd)
        zygote = cls(process, ours, life)
        try:
            await zygote._warm(preload)
        except BaseException:
            await zygote.stop()
            raise
        return zygote

    async def _warm(self, preload: tuple[str, ...]) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_START_SECONDS):
                answer = await loop.sock_recv(self._control, _MAX_MESSAGE)
        except TimeoutError:
            names = ", ".join(preload) or "nothing"
            raise SandboxError(
                f"the sandbox did not start in {_START_SECONDS:.0f} s (preloading {names})"
            ) from None
        except OSError as error:
            raise SandboxError(f"the sandbox's control socket failed: {error}") from error
        if answer == _READY:
            return
        if answer.startswith(_PRELOAD_FAILED):
            why = answer.removeprefix(_PRELOAD_FAILED).decode(errors="replace")
            raise ConfigError(f"a module of preload={list(preload)} cannot be imported in the sandbox: {why}")
        raise SandboxError(f"bubblewrap could not start the sandbox: {await self.last_words()}")

    async def _listen(self) -> None:
        """Keep the last that bubblewrap or the zygote said; nothing untrusted writes there."""
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(_MAX_MESSAGE):
            self._last_words += data
            del self._last_words[:-_MAX_MESSAGE]

    async def last_words(self) -> str:
        """What it wrote to standard error at the end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._listening), 1.0)
        return self._last_words.decode(errors="replace").strip() or "it ended without a message"

    async def gone(self, seconds: float) -> bool:
        """Whether it has ended, or does so within a moment."""
        if self._process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds)
        return self._process.returncode is not None

    @property
    def fertile(self) -> bool:
        """Whether it can make sessions; those that it made may go on without it."""
        try:
            return bool(self._control.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return self.alive  # it says nothing, as it should
        except OSError:
            return False

    @property
    def alive(self) -> bool:
        """Whether its sessions can be."""
        return self._process.returncode is None

    async def request(self, limits: dict[str, Any], fds: Sequence[int]) -> None:
        """Ask for a session that talks through the first of ``fds``, and for a fork of the one that has the
        other end of the second, if there is one. Raises ZygoteGone if the zygote has."""
        message = json.dumps(limits).encode()
        try:
            async with self._sending:
                await retried(
                    lambda: socket.send_fds(self._control, [message], fds),
                    self._control.fileno(),
                    write=True,
                )
        except OSError as error:
            raise ZygoteGone(f"the sandbox's zygote has gone ({error})") from error

    async def stop(self) -> None:
        """End it and, with its pid namespace, every session it made."""
        self._control.close()  # the zygote ends at this
        self._life.close()  # and at this its keeper, with bubblewrap
        if not await self.gone(_FAREWELL_SECONDS):
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await _within(self._process.wait(), _STOP_SECONDS, "the sandbox's zygote outlives SIGKILL")
        await _within(self._listening, _STOP_SECONDS, "a process of the sandbox outlives it")


async def _within(work: Awaitable[Any], seconds: float, otherwise: str) -> None:
    try:
        await asyncio.wait_for(work, seconds)
    except TimeoutError:
        raise SandboxError(otherwise) from None

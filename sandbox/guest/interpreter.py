"""A supervisor's side of the process that runs cells."""

from __future__ import annotations

import mmap
import os
import socket

from . import worker
from .capture import Streams
from .events import Events


class Interpreter:
    """The pipes of an interpreter; ``pid`` is set once it has a process, ``spoke`` once anything was heard.

    ``theirs`` are the guest's ends: commands, verdicts, stdout, stderr.
    """

    def __init__(self, events: Events, scratch: mmap.mmap) -> None:
        self.pid = -1
        self.spoke = False
        self.verdict: tuple[bytes, int] | None = None
        self.streams = Streams(events, scratch)
        self._events, self._heard, self._token = events, bytearray(), b""
        ours, theirs = socket.socketpair()  # a socket, because a fork needs descriptors to be passed
        ours.setblocking(False)
        self.commands = ours.detach()
        self._verdicts, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._verdicts, False)
        self.theirs = [theirs.detach(), writer, *self.streams.writers]
        events.watch(self._verdicts, self._hear, urgent=True)

    def begin(self) -> bytes:
        """A token for the next command: only a verdict that bears it counts."""
        self._token, self.verdict = os.urandom(worker.TOKEN_SIZE), None
        self._heard.clear()
        return self._token

    def end(self) -> None:
        """Hear no more verdicts."""
        self._token = b""

    def _hear(self) -> None:
        """Guest code can write to the verdict pipe too: anything may come, and any amount."""
        try:
            data = os.read(self._verdicts, 65_536)
        except BlockingIOError:
            return
        if not data:
            self._events.forget(self._verdicts)
        self.spoke = True
        self._heard += data
        at = self._heard.find(self._token) if self._token else -1
        if at >= 0 and len(self._heard) >= at + worker.VERDICT.size:
            _, letter, exit_code = worker.VERDICT.unpack_from(self._heard, at)
            self.verdict, self._token = (letter, exit_code), b""
        del self._heard[: -worker.VERDICT.size]

    def close_theirs(self) -> None:
        """To be called once the guest process has its copies."""
        while self.theirs:
            os.close(self.theirs.pop())

    def drop(self) -> Streams:
        """Let go of it; its output may still be coming."""
        self.close_theirs()
        self._events.forget(self._verdicts)
        os.close(self._verdicts)
        os.close(self.commands)
        return self.streams

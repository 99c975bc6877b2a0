"""The limit to compare with: a warm interpreter that forks for every program, with no isolation and no HTTP.

It is the least that can be done for a fresh interpreter: fork, run, read what was printed, reap.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections.abc import Sequence

REQUEST = struct.Struct("!I")


class BareFork:
    """A process with ``preload`` imported that forks a child per program. Made by :meth:`start`."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self._pid, self._control = pid, control
        self._sending = asyncio.Lock()

    @classmethod
    def start(cls, preload: Sequence[str] = ()) -> BareFork:
        """Fork the warm process. To be called before threads or an event loop exist."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            for name in preload:
                __import__(name)
            _serve(theirs)
        theirs.close()
        ours.setblocking(False)
        return cls(pid, ours)

    async def run(self, code: str) -> bytes:
        """What a program prints, read to the end."""
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        data = code.encode()
        async with self._sending:
            while True:
                try:
                    socket.send_fds(self._control, [REQUEST.pack(len(data)) + data], [writer])
                    break
                except BlockingIOError:
                    await asyncio.sleep(0)
        os.close(writer)
        stream = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb", buffering=0)
        )
        try:
            return await stream.read()
        finally:
            transport.close()

    def close(self) -> None:
        """End it. Closing its socket would not: later forks of this process hold copies."""
        self._control.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _serve(control: socket.socket) -> None:
    while True:
        prefix, fds, _, _ = socket.recv_fds(control, REQUEST.size, 1)
        if not prefix:
            os._exit(0)
        (size,) = REQUEST.unpack(prefix)
        code = b""
        while len(code) < size:
            code += control.recv(size - len(code))
        if os.fork() == 0:
            control.close()
            os.dup2(fds[0], 1)
            os.dup2(fds[0], 2)
            try:
                exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})  # noqa: S102
            finally:
                import sys

                sys.stdout.flush()
                os._exit(0)
        os.close(fds[0])

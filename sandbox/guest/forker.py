"""A warm process in a session for stateless calls that forks a child per program.

Its children fork from little memory that nothing else writes to, which costs less than forking from the
supervisor. It is confined as every guest process is, holds nothing of any call (a program's text goes to the
child alone, through its standard input), and cannot be looked into by guests. They can kill it, and gain
nothing: the call that does is reported as crashed, and its session serves no other.
"""

from __future__ import annotations

import gc
import os
import socket
import struct
import types
from typing import Any, NoReturn

from . import confine, linux, script
from .events import Events

_REQUEST = struct.Struct("!?I")  # whether it is bash, bytes of program text
_VERDICT = struct.Struct("!i")  # exit code, negative for a signal
_STREAMS = 3
_LIST = 256  # bytes of a list of processes; longer than one process is too long


class Forker:
    """The supervisor's handle on it: one program at a time."""

    def __init__(self, events: Events, spec: dict[str, Any], null: int) -> None:
        ours, theirs = socket.socketpair()
        self._events, self._socket = events, ours
        self.exit_code: int | None = None
        self.alive = True
        self.pid = confine.spawn(
            (null, null, null), {theirs.fileno()}, spec, lambda: _serve(theirs), dumpable=False
        )
        theirs.close()
        self._families = [_children(1), _children(self.pid)]
        events.watch(ours.fileno(), self._hear, urgent=True)

    def begin(self, language: str, size: int, streams: tuple[int, int, int]) -> None:
        """Have a program run with these as its standard input, output and error."""
        self.exit_code = None
        try:
            socket.send_fds(self._socket, [_REQUEST.pack(language == "bash", size)], streams)
        except OSError:
            self.close()

    def alone(self) -> bool:
        """Whether it and the supervisor are the session's only processes; False where that is not certain.

        Orphans go to the supervisor, and the dead stay in its list until it collects them.
        """
        try:
            supervisors, ours = (os.pread(fd, _LIST, 0).split() for fd in self._families)
        except OSError:
            return False  # this kernel keeps no such lists
        return [int(pid) for pid in supervisors] == [self.pid] and not ours

    def _hear(self) -> None:
        try:
            data = self._socket.recv(_VERDICT.size, socket.MSG_DONTWAIT)
        except OSError:
            data = b""
        if len(data) < _VERDICT.size:
            self.close()
        else:
            (self.exit_code,) = _VERDICT.unpack(data)

    def close(self) -> None:
        """Let it go; it ends at this if it has not yet."""
        if self.alive:
            self.alive = False
            self._events.forget(self._socket.fileno())
            self._socket.close()


def _children(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _serve(control: socket.socket) -> NoReturn:
    """Fork for every request and report how the child ended, until the supervisor hangs up."""
    reader, writer = os.pipe()
    os.dup2(reader, 0)
    for fd in (reader, writer):
        os.close(fd)
    main = script.prepare()
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, shared pages
    while True:
        request, streams, _, _ = socket.recv_fds(control, _REQUEST.size, _STREAMS)
        if not request:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            _become_program(control, streams, request, main)
        for fd in streams:
            os.close(fd)
        _, status = os.waitpid(pid, 0)
        control.send(_VERDICT.pack(os.waitstatus_to_exitcode(status)))


def _become_program(
    control: socket.socket, streams: list[int], request: bytes, main: types.ModuleType
) -> NoReturn:
    try:
        control.close()
        os.setsid()
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
            os.close(fd)
        linux.set_dumpable(True)  # its own /proc/self is to work
        is_bash, size = _REQUEST.unpack(request)
        script.execute("bash" if is_bash else "python", size, main)
    finally:
        os._exit(127)  # the caller's frames must never run in the copy

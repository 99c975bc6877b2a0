"""Stands for a Python program that the zygote runs: ``python -I -S forked.py <socket> <python's arguments>``.

It hands its arguments, environment, working directory and open files to :mod:`agentrl.train.zygote`, passes
signals on, and ends as the program ends. It imports little, for it has to start within milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from types import FrameType

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
NUMBER = struct.Struct("!i")
MAX_FILES = 250
"""Open files that can be handed over."""


def main(path: str, arguments: list[str]) -> int:
    """Have the program run; returns its exit status, negative the signal that ended it."""
    # Importing pathlib would take longer than all else in here.
    listed = map(int, os.listdir("/proc/self/fd"))  # noqa: PTH208
    files = sorted(number for number in listed if _is_open(number))
    if len(files) > MAX_FILES:
        sys.exit(f"{len(files)} files are open, and {MAX_FILES} can be handed over.")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    here = os.getcwd()  # noqa: PTH109
    wanted = {"arguments": arguments, "environment": dict(os.environ), "folder": here, "files": files}
    asked = json.dumps(wanted).encode()
    # The files go with the first byte.
    socket.send_fds(connection, [NUMBER.pack(len(asked))], files)
    connection.sendall(asked)
    child = _receive(connection)
    if child is None:
        return 1
    # A pipe's other end must not wait for this process.
    _close(files)

    def pass_on(number: int, _: FrameType | None) -> None:
        try:
            os.kill(child, number)
        except ProcessLookupError:
            return

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    status = _receive(connection)
    return -signal.SIGKILL if status is None else status


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:  # the one that listed them
        return False
    return True


def _close(files: list[int]) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in files:
        if number > 2:
            os.close(number)
        elif number < 2:
            os.dup2(nothing, number)
    os.close(nothing)


def _receive(connection: socket.socket) -> int | None:
    """A number from the zygote; ``None`` when it has ended."""
    got = b""
    while len(got) < NUMBER.size:
        try:
            more = connection.recv(NUMBER.size - len(got))
        except ConnectionError:
            return None
        if not more:
            return None
        got += more
    return int(NUMBER.unpack(got)[0])


def _end_as(status: int) -> None:
    """End this process as the other one ended."""
    if status >= 0:
        os._exit(status)
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)


if __name__ == "__main__":
    _end_as(main(sys.argv[1], sys.argv[2:]))

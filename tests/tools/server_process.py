"""Runs a server of the tests in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(script: Path) -> Iterator[str]:
    """The script, given a listening socket's descriptor as its argument; yields its address.

    Who connects before it has begun to serve waits, so nothing has to be asked whether it has.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port, descriptor = listening.getsockname()[1], listening.fileno()
        process = subprocess.Popen([sys.executable, str(script), str(descriptor)], pass_fds=[descriptor])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()

"""Runs a server of the tests in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen


@contextmanager
def served(script: Path) -> Iterator[str]:
    """The script, given a listening socket's descriptor as its argument; yields its address once it serves.

    Who connects before that waits, so one question tells, however long it takes.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port, descriptor = listening.getsockname()[1], listening.fileno()
        process = subprocess.Popen([sys.executable, str(script), str(descriptor)], pass_fds=[descriptor])
    address = f"http://127.0.0.1:{port}"
    try:
        with suppress(HTTPError):  # any answer shows that it serves
            urlopen(address).close()
        yield address
    finally:
        process.kill()
        process.wait()

"""Plain processes of this machine, for `dangerously_local`: found, counted and ended by a mark they carry."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from .guest.capture import Capture

_TICKS = os.sysconf("SC_CLK_TCK")
_KILL_SECONDS = 5.0
_CHUNK = 65_536
_READS = 64
_LIMITED = 'ulimit -c 0 -v "$1" -f "$2" -n "$3"; shift 3; exec "$@"'


def limited(argv: Sequence[str], memory_mb: int, disk_mb: int, open_files: int) -> list[str]:
    """A command line that takes its limits upon itself before it becomes ``argv``."""
    sizes = (memory_mb * 1024, disk_mb * 1024, open_files)
    return ["/bin/bash", "-c", _LIMITED, "bash", *map(str, sizes), *argv]


class Marked:
    """All processes that carry a mark in the environment they were started with, whoever their parent is."""

    def __init__(self, mark: str) -> None:
        self._mark = mark.encode()

    def pids(self) -> set[int]:
        """Those that are alive."""
        found = set()
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    environment = Path("/proc", name, "environ").read_bytes()
                except OSError:  # it has ended, or is none of ours
                    continue
                if self._mark in environment:
                    found.add(int(name))
        return found

    def cpu_seconds(self) -> float:
        """CPU time that they, and children of theirs that have ended, have used."""
        ticks = 0
        for pid in self.pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            ticks += sum(int(value) for value in fields[11:15])
        return ticks / _TICKS

    def kill(self, spared: int = 0) -> bool:
        """End them all but one. False if some keep coming back."""
        deadline = time.monotonic() + _KILL_SECONDS
        while others := self.pids() - {spared}:
            for pid in others:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True


class Output:
    """The pipes that a process prints into, read as it prints; in an event loop."""

    def __init__(self) -> None:
        self.capture: Capture | None = None  # where output goes; None throws it away
        pipes = [os.pipe() for _ in range(2)]
        self.writers = tuple(writer for _, writer in pipes)
        self._readers = [reader for reader, _ in pipes]
        for index, reader in enumerate(self._readers):
            os.set_blocking(reader, False)
            asyncio.get_running_loop().add_reader(reader, self._read, index)

    def started(self) -> None:
        """To be called once the process has its copies."""
        for writer in self.writers:
            os.close(writer)

    def drain(self) -> None:
        """Take what lies in the pipes now."""
        for index in (0, 1):
            for _ in range(_READS):
                if not self._read(index):
                    break

    def _read(self, index: int) -> bool:
        reader = self._readers[index]
        if reader < 0:
            return False
        try:
            data = os.read(reader, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._close(index)
            return False
        if self.capture is not None:
            self.capture.add(index, data)
        return True

    def _close(self, index: int) -> None:
        reader, self._readers[index] = self._readers[index], -1
        if reader >= 0:
            asyncio.get_running_loop().remove_reader(reader)
            os.close(reader)

    @property
    def open(self) -> bool:
        """Whether somebody can still print."""
        return any(reader >= 0 for reader in self._readers)

    def close(self) -> None:
        """Read no more."""
        for index in (0, 1):
            self._close(index)


async def feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    """Write a process its input; it need not read it."""
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()


def special_files(folder: str, names: list[str]) -> list[str]:
    """Names that are no file, folder or link: pipes and sockets are not copied."""
    paths = {name: os.path.join(folder, name) for name in names}
    return [
        name for name, path in paths.items()
        if not (os.path.islink(path) or os.path.isfile(path) or os.path.isdir(path))
    ]  # fmt: skip

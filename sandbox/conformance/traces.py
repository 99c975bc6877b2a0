"""What is left on this machine, as seen from outside a sandbox."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_SEARCHED = 50_000  # entries looked at in a search for leftover files


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(root: int) -> set[int]:
    """All living processes below ``root``."""
    parents: dict[int, list[int]] = {}
    for pid in _pids():
        state, parent = _state_and_parent(pid)
        if state not in "XZ":
            parents.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = [root]
    while todo:
        children = parents.get(todo.pop(), [])
        found.update(children)
        todo.extend(children)
    return found


def processes_named(word: str) -> set[int]:
    """Living processes of this machine with ``word`` in their command line."""
    found = set()
    for pid in _pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if word.encode() in words and _state_and_parent(pid)[0] not in "XZ":
            found.add(pid)
    return found


def files_named(word: str) -> list[str]:
    """Files with ``word`` in their name below this machine's folders for temporary files."""
    found, looked = [], 0
    for root in {tempfile.gettempdir(), "/tmp", "/dev/shm"}:
        for folder, folders, files in os.walk(root):
            found += [os.path.join(folder, name) for name in (*folders, *files) if word in name]
            looked += len(folders) + len(files)
            if looked > _SEARCHED:
                break
    return found


def open_descriptors() -> int:
    """How many descriptors this process holds."""
    return len(os.listdir("/proc/self/fd"))


def shared_memory() -> int:
    """Bytes of memory that this machine keeps in files: tmpfs and the like."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) * 1024
    return 0


async def becomes(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes true within so many seconds; returns as soon as it does."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True

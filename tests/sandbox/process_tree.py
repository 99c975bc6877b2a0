"""Which processes descend from one, as seen from outside a sandbox."""

from __future__ import annotations

import os
import time
from pathlib import Path


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)


def alive(pid: int) -> bool:
    """Whether a process exists and is more than an entry waiting to be collected."""
    return _state_and_parent(pid)[0] not in "XZ"


def descendants(root: int) -> set[int]:
    """All living processes below ``root``."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            state, parent = _state_and_parent(int(name))
            if state not in "XZ":
                parents.setdefault(parent, []).append(int(name))
    found: set[int] = set()
    todo = [root]
    while todo:
        children = parents.get(todo.pop(), [])
        found.update(children)
        todo.extend(children)
    return found


def wait_until_gone(pids: set[int], seconds: float = 10.0) -> set[int]:
    """Those of ``pids`` that are still alive after a while; returns as soon as none is."""
    deadline = time.monotonic() + seconds
    while (left := {pid for pid in pids if alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left

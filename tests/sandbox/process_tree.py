"""Which processes descend from one, as seen from outside a sandbox."""

from __future__ import annotations

import time
from pathlib import Path

from agentrl.sandbox.conformance.traces import descendants

__all__ = ["alive", "descendants", "wait_until_gone"]


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", 0
    return state, int(parent)


def alive(pid: int) -> bool:
    """Whether a process exists and is more than an entry waiting to be collected."""
    return _state_and_parent(pid)[0] not in "XZ"


def wait_until_gone(pids: set[int], seconds: float = 10.0) -> set[int]:
    """Those of ``pids`` that are still alive after a while; returns as soon as none is."""
    deadline = time.monotonic() + seconds
    while (left := {pid for pid in pids if alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left

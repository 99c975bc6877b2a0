"""What stands behind a handle on a process (a pidfd)."""

from __future__ import annotations


def pid_of(pidfd: int) -> int:
    """The process, as numbered out here. Raises ProcessLookupError if it has ended."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == "Pid" and int(value) > 0:
                return int(value)
    raise ProcessLookupError("the session's first process has already ended")


def children_of(pidfd: int) -> list[int]:
    """Its children, as numbered out here."""
    pid = pid_of(pidfd)
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]

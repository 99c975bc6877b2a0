"""What a supervisor needs to know and do about the processes of its session."""

from __future__ import annotations

import os
import signal

_TICKS = os.sysconf("SC_CLK_TCK")
_PASSES = 20


def _fields(pid: int) -> list[bytes]:
    """The numbers of /proc/<pid>/stat from the state on; empty if the process is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(fd, 4096).rpartition(b")")[2].split()
    except OSError:
        return []
    finally:
        os.close(fd)


def all_pids() -> list[int]:
    """Every process of the session, and of its forks, but its supervisor."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]


def _in_a_fork(pid: int) -> bool:
    """Whether a process has a pid namespace below ours, as those of forks of the session do."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            line = next((line for line in file if line.startswith(b"NSpid:")), b"")
    except OSError:
        return False
    return len(line.split()) > 2


def guests(forked: bool) -> list[int]:
    """The session's own guest processes; ``forked``: it may have forks, whose processes are not its own."""
    return [pid for pid in all_pids() if not (forked and _in_a_fork(pid))]


def has_forks() -> bool:
    """Whether a fork of the session is alive."""
    return any(_in_a_fork(pid) and _fields(pid)[:1] not in ([], [b"Z"]) for pid in all_pids())


def cpu_seconds(forked: bool) -> float:
    """CPU time used so far by all guest processes of the session, the dead ones included."""
    ticks = 0
    for pid in guests(forked):
        fields = _fields(pid)  # from 11: its user and system time, and its reaped children's
        ticks += sum(int(value) for value in fields[11:15])
    reaped = _fields(1)
    ticks += sum(int(value) for value in reaped[13:15])
    return ticks / _TICKS


def reap() -> dict[int, int]:
    """Collect whatever has ended: pid to exit code, negative for a signal."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def kill_all(forked: bool) -> None:
    """End every guest process of the session; a fork bomb cannot outrun one kill(-1).

    Forks of the session are spared, unless it has guests that cannot be caught one by one.
    """
    if forked and kill_all_but(0, forked):
        return
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except (ChildProcessError, ProcessLookupError):
        return  # orphans become our children: without any, there is nobody


def kill_all_but(spared: int, forked: bool) -> bool:
    """End every guest process but one. False if some keep forking away: then only `kill_all` helps."""
    for _ in range(_PASSES):
        others = _alive_but(spared, forked)
        if not others:
            return True
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that they cannot fork on
            for pid in others:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        reap_all_but(spared, others)
    return not _alive_but(spared, forked)


def _alive_but(spared: int, forked: bool) -> list[int]:
    return [pid for pid in guests(forked) if pid != spared and _fields(pid)[:1] not in ([], [b"Z"])]


def reap_all_but(spared: int, pids: list[int]) -> None:
    """Wait for those of ``pids`` that are ours to reap; the rest belong to a parent that still lives."""
    for pid in pids:
        if pid != spared:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                continue

"""The walls of one session: its namespaces and file systems, and what each process in it is held to."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from . import linux

WORKSPACE = "/workspace"
HOSTNAME = "sandbox"
_STACK_BYTES = 8 << 20
_OOM_SCORE = "500"  # the kernel should pick guest code before its supervisor


def new_namespaces() -> None:
    """Leave for new namespaces of every kind; the next child is the first process of the new pid space."""
    uid, gid = os.getuid(), os.getgid()
    linux.unshare(linux.NEW_EVERYTHING)
    linux.map_ids(uid, gid)


def furnish(disk_mb: int, inodes: int) -> None:
    """In the new namespaces: own /proc, one capped tmpfs for all that is writable, loopback, a host name."""
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    secure = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("proc", "/proc", "proc", secure | linux.MS_NOEXEC)
    # three inodes go to the folders below and one to the root
    linux.mount("tmpfs", WORKSPACE, "tmpfs", secure, f"size={disk_mb}m,nr_inodes={inodes + 4},mode=0755")
    os.umask(0o022)
    for name, target, mode in (
        ("tmp", "/tmp", 0o1777),
        ("shm", "/dev/shm", 0o1777),
        ("files", WORKSPACE, 0o755),  # last: it hides the other two
    ):
        folder = f"{WORKSPACE}/{name}"
        os.mkdir(folder)
        os.chmod(folder, mode)
        linux.mount(folder, target, None, linux.MS_BIND)
    linux.loopback_up()
    socket.sethostname(HOSTNAME)
    os.chdir(WORKSPACE)


def seal() -> None:
    """Drop every capability for good, and hide this process's memory from the guests of the same user."""
    linux.drop_privileges()
    linux.set_dumpable(False)


def _apply_limits(limits: dict[str, Any]) -> None:
    megabyte = 1 << 20
    values = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: limits["processes"] + 1,  # the supervisor is counted with them
        resource.RLIMIT_FSIZE: limits["disk_mb"] * megabyte,
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_STACK: _STACK_BYTES,
        resource.RLIMIT_MEMLOCK: 64 << 10,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if not limits["memory_cgroup"]:
        values[resource.RLIMIT_AS] = limits["memory_mb"] * megabyte + _mapped_bytes()
        values[resource.RLIMIT_DATA] = limits["memory_mb"] * megabyte
    for which, value in values.items():
        hard = resource.getrlimit(which)[1]
        capped = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (capped, capped))


def _mapped_bytes() -> int:
    """Address space this process has already: the interpreter and what was preloaded come free."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def spawn(
    streams: tuple[int, int, int], keep: set[int], spec: dict[str, Any], body: Callable[[], NoReturn]
) -> int:
    """Fork a confined process that runs guest code, and return its pid.

    ``streams`` become its standard input, output and error; of the other descriptors only ``keep`` stay open.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        _become_guest(streams, keep, spec)
        body()
    except BaseException as error:  # noqa: BLE001
        # the caller's frames must never run in the copy
        os.write(2, f"sandbox: {type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _become_guest(streams: tuple[int, int, int], keep: set[int], spec: dict[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    for which in (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE):
        signal.signal(which, signal.SIG_DFL)
    os.setsid()
    for target, fd in enumerate(streams):
        os.dup2(fd, target)
    linux.close_all_but({0, 1, 2} | keep)
    _apply_limits(spec["limits"])
    linux.load_seccomp(spec["seccomp"])
    # Only now, with the filter on, may other guests look into it: before, one could write itself into its
    # memory and run unfiltered. It has to be allowed, or the process could not read its own /proc/self.
    linux.set_dumpable(True)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(_OOM_SCORE)
    except OSError:
        pass  # only a preference

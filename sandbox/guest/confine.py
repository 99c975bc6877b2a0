"""The walls of one session: its namespaces and file systems, and what each process in it is held to."""

from __future__ import annotations

# without the enumerations of `signal`, whose use costs a fork more than the call does
import _signal  # type: ignore[import-not-found]
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
_OOM_SCORE = b"500"  # the kernel should pick guest code before its supervisor


def new_user_namespace() -> None:
    """Leave for a user namespace in which we have every capability, under the same ids."""
    uid, gid = os.getuid(), os.getgid()
    linux.unshare(linux.CLONE_NEWUSER)
    linux.map_ids(uid, gid)


def new_namespaces(user: bool) -> None:
    """Leave for new namespaces of every kind, perhaps but that of users; the next child is the first process
    of the new pid space."""
    if user:
        new_user_namespace()
    linux.unshare(linux.NEW_BUT_USER)


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


def hide(paths: list[str]) -> None:
    """In the new namespaces: cover folders and files that are in view, so that nothing of them is."""
    for path in paths:
        if os.path.isdir(path):
            linux.mount("tmpfs", path, "tmpfs", linux.MS_RDONLY, "size=4k,nr_inodes=1,mode=0555")
        elif os.path.isfile(path):
            linux.mount("/dev/null", path, None, linux.MS_BIND)


def seal() -> None:
    """Drop every capability for good, and hide this process's memory from the guests of the same user."""
    linux.drop_privileges()
    linux.set_dumpable(False)


def confine_self(spec: dict[str, Any]) -> None:
    """Hold a supervisor to what its guests are held to, so that they need only inherit it.

    Saves each call most of the way there. Such a supervisor can make no namespaces any more.
    """
    _apply(_lasting_limits(spec["limits"]))
    linux.load_seccomp(spec["seccomp"])
    spec["confined"] = True


def _lasting_limits(limits: dict[str, Any]) -> dict[int, int]:
    return {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: limits["processes"] + 2,  # the supervisor and a forker are counted with them
        resource.RLIMIT_FSIZE: limits["disk_mb"] << 20,
        resource.RLIMIT_STACK: _STACK_BYTES,
        resource.RLIMIT_MEMLOCK: 64 << 10,
        resource.RLIMIT_MSGQUEUE: 0,
    }


def _own_limits(limits: dict[str, Any]) -> dict[int, int]:
    """Those that a supervisor could not live with."""
    megabyte = 1 << 20
    values = {resource.RLIMIT_NOFILE: limits["open_files"]}
    if not limits["memory_cgroup"]:
        values[resource.RLIMIT_AS] = limits["memory_mb"] * megabyte + _mapped_bytes()
        values[resource.RLIMIT_DATA] = limits["memory_mb"] * megabyte
    return values


def _apply(values: dict[int, int]) -> None:
    for which, value in values.items():
        hard = resource.getrlimit(which)[1]
        capped = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (capped, capped))


def _mapped_bytes() -> int:
    """Address space this process has already: the interpreter and what was preloaded come free."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def spawn(
    streams: tuple[int, int, int],
    keep: set[int],
    spec: dict[str, Any],
    body: Callable[[], NoReturn],
    *,
    dumpable: bool = True,
) -> int:
    """Fork a confined process and return its pid.

    ``streams`` become its standard input, output and error; of the other descriptors only ``keep`` stay open.
    ``dumpable``: whether guests may look into it, as a process that runs guest code must allow.
    """
    leave = os._exit  # guest code may rebind the original
    pid = os.fork()
    if pid:
        return pid
    try:
        _become_guest(streams, keep, spec)
        # Only now, with the filter on, may other guests look into it: before, one could write itself into
        # its memory and run unfiltered. It has to be allowed, or it could not read its own /proc/self.
        linux.set_dumpable(dumpable)
        body()
    except BaseException as error:  # noqa: BLE001
        # the caller's frames must never run in the copy
        os.write(2, f"sandbox: {type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        leave(127)


def _become_guest(streams: tuple[int, int, int], keep: set[int], spec: dict[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    for which in (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE):
        _signal.signal(which, _signal.SIG_DFL)
    os.setsid()
    for target, fd in enumerate(streams):
        os.dup2(fd, target)
    linux.close_all_but({0, 1, 2} | keep)
    _apply(_own_limits(spec["limits"]))
    if not spec.get("confined"):
        _apply(_lasting_limits(spec["limits"]))
        linux.load_seccomp(spec["seccomp"])
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    except OSError:
        return  # only a preference
    os.write(fd, _OOM_SCORE)
    os.close(fd)

"""The few kernel calls that Python's standard library does not offer, through ctypes."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import socket
import struct

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
NEW_BUT_USER = CLONE_NEWNS | 0x02000000 | 0x04000000 | 0x08000000 | CLONE_NEWPID | 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 4, 22, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_CAPABILITY_VERSION_3 = 0x20080522
_SECCOMP_MODE_FILTER = 2
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, value: int, pointer: ctypes.c_void_p | None = None) -> int:
    return int(_libc.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)))


def unshare(flags: int) -> None:
    """Leave the namespaces named by ``flags`` for new ones."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int = 0) -> None:
    """Join the namespace behind a descriptor; for one of processes, that of the next child."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str | None, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    kind_bytes = kind.encode() if kind else None
    result = _libc.mount(
        source.encode(), target.encode(), kind_bytes, ctypes.c_ulong(flags), options.encode()
    )
    _check(result, f"mount {kind or source} on {target}")


def set_dumpable(value: bool) -> None:
    """Whether processes of the same user may look into this one (/proc/<pid>/mem, ptrace, fds)."""
    _check(_prctl(_PR_SET_DUMPABLE, int(value)), "prctl(PR_SET_DUMPABLE)")


def become_subreaper() -> None:
    """Adopt orphaned descendants."""
    _check(_prctl(_PR_SET_CHILD_SUBREAPER, 1), "prctl(PR_SET_CHILD_SUBREAPER)")


def drop_privileges() -> None:
    """Give up every capability for good, and the means to regain one by executing a file."""
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "prctl(PR_SET_NO_NEW_PRIVS)")
    capability = 0
    while _prctl(_PR_CAPBSET_DROP, capability) == 0:  # ends at the first number this kernel lacks
        capability += 1
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    nothing = ctypes.create_string_buffer(24)
    _check(_libc.capset(header, nothing), "capset")


def load_seccomp(program: bytes) -> None:
    """Put this process and its descendants under a filter; needs no_new_privs."""
    code = ctypes.create_string_buffer(program)
    filter_program = _FilterProgram(len(program) // 8, ctypes.cast(code, ctypes.c_void_p))
    pointer = ctypes.cast(ctypes.pointer(filter_program), ctypes.c_void_p)
    _check(_prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, pointer), "prctl(PR_SET_SECCOMP)")


def loopback_up() -> None:
    """Bring up ``lo``: it is down in a new network namespace, and local servers need it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def map_ids(uid: int, gid: int) -> None:
    """Map one user and one group into the user namespace just entered, under the same numbers."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def close_all_but(keep: set[int]) -> None:
    """Close every file descriptor that is not in ``keep``."""
    low = 0
    for fd in sorted(keep):
        if fd > low:  # closerange(0, 0) would close everything
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, max(low, resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65_536))

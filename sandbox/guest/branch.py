"""Copying a session: its files by the new supervisor, its interpreter by that interpreter itself.

Only a process can copy its own memory. So the interpreter forks, and the copy enters the new session's
namespaces with descriptors that the new supervisor gave out. A process that enters a user namespace of its
own user's has every capability in it until it drops them; its system call filter stays on throughout. The new
supervisor looks at what has arrived before it hands it anything to do.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Sequence

from . import linux

FOLDERS = ("/workspace", "/tmp", "/dev/shm")
#: In the order in which they are entered: the first gives the right to enter the others.
_NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
DESCRIPTORS = len(_NAMESPACES) + 4
_CHUNK = 1 << 20
_THREAD_ENDS = 100  # looks, a millisecond apart, whether a thread has ended
_LINKS = "/proc/self/fd"
_KEPT = ("CapInh", "CapPrm", "CapEff", "CapAmb")


def show_the_way(bridge: socket.socket) -> None:
    """Send handles on our user and pid namespaces and on our folders, for a fork to lie below and to copy."""
    fds = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in _NAMESPACES[:2]]
    _send(bridge, fds + [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in FOLDERS], ())


def invite(bridge: socket.socket, pipes: Sequence[int]) -> None:
    """Send handles on our own namespaces, and the pipes of an interpreter, for `move` in the parent's."""
    _send(bridge, [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in _NAMESPACES], pipes)


def _send(bridge: socket.socket, ours: list[int], others: Sequence[int]) -> None:
    try:
        socket.send_fds(bridge, [b"f"], [*ours, *others])
    finally:
        for fd in ours:
            os.close(fd)


# ---- files


def copy_folders(sources: list[int]) -> None:
    """Copy the content of another session's folders into ours. Its guests may be changing them meanwhile."""
    inodes: dict[int, str] = {}
    for source, path in zip(sources, FOLDERS, strict=False):
        target = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _copy_folder(source, target, path, inodes)
        _copy_attributes(source, target)
        os.close(source)
        os.close(target)


def _copy_folder(source: int, target: int, path: str, inodes: dict[int, str]) -> None:
    for name in os.listdir(source):
        try:
            info = os.lstat(name, dir_fd=source)
            here = f"{path}/{name}"
            if stat.S_ISLNK(info.st_mode):
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            elif stat.S_ISFIFO(info.st_mode):
                os.mkfifo(name, stat.S_IMODE(info.st_mode), dir_fd=target)
            elif stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode):
                if info.st_nlink > 1 and info.st_ino in inodes:
                    os.link(inodes[info.st_ino], name, dst_dir_fd=target)
                    continue
                _copy_entry(source, target, name, here, info, inodes)
                if stat.S_ISREG(info.st_mode):
                    inodes[info.st_ino] = here
        except FileNotFoundError:
            continue  # gone since it was listed
        # sockets are left out: nobody would listen


def _copy_entry(
    source: int, target: int, name: str, here: str, info: os.stat_result, inodes: dict[int, str]
) -> None:
    readable = 0o500 if stat.S_ISDIR(info.st_mode) else 0o400
    if info.st_mode & readable != readable:
        os.chmod(name, stat.S_IMODE(info.st_mode) | readable, dir_fd=source)
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    theirs = os.open(name, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=source)
    if stat.S_ISDIR(info.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        ours = os.open(name, os.O_RDONLY | os.O_DIRECTORY | flags, dir_fd=target)
        _copy_folder(theirs, ours, here, inodes)
    else:
        ours = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600, dir_fd=target)
        _copy_data(theirs, ours, info.st_size)
    if info.st_mode & readable != readable:
        os.fchmod(theirs, stat.S_IMODE(info.st_mode))
    _copy_attributes(theirs, ours, info)
    os.close(theirs)
    os.close(ours)


def _copy_data(source: int, target: int, size: int) -> None:
    """Holes stay holes: a sparse file may be larger than the whole disk."""
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:
            return  # only a hole is left
        end = min(size, os.lseek(source, at, os.SEEK_HOLE))
        while at < end:
            data = os.pread(source, min(_CHUNK, end - at), at)
            if not data:
                return  # it has been cut meanwhile
            at += os.pwrite(target, data, at)


def _copy_attributes(source: int, target: int, info: os.stat_result | None = None) -> None:
    info = info or os.fstat(source)
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


# ---- memory


class Threads(Exception):
    """A process with several threads cannot be copied: the others would be missing."""


def move(descriptors: list[int]) -> tuple[int, int] | None:
    """Fork this process into another session. None in the original; in the copy, the descriptors that its
    commands come from and its verdicts go to."""
    child = -1
    try:
        if not _alone():
            raise Threads
        child = os.fork()
    finally:
        if child:
            for fd in descriptors:
                os.close(fd)
    if child:
        if os.waitpid(child, 0)[1]:
            raise OSError("it could not enter the new session")
        return None
    try:
        return _arrive(descriptors)
    except BaseException:  # noqa: BLE001  the original's frames must not run in the copy
        os._exit(1)


def _alone() -> bool:
    """Whether this process has no other thread. One that has been joined may be a moment in ending."""
    for _ in range(_THREAD_ENDS):
        if len(os.listdir("/proc/self/task")) == 1:
            return True
        time.sleep(0.001)
    return False


def _arrive(descriptors: list[int]) -> tuple[int, int]:
    opened = _opened_files(set(descriptors))
    for fd in descriptors[: len(_NAMESPACES)]:
        linux.setns(fd)
    child = os.fork()  # the first to be in the new pid namespace; its parent is not, nor would its next be
    if child:
        os._exit(1 if os.waitpid(child, 0)[1] else 0)
    if os.fork():
        os._exit(0)
    linux.drop_privileges()
    os.setsid()
    os.chdir("/workspace")
    commands, verdicts, out, err = descriptors[len(_NAMESPACES) :]
    for target, fd in enumerate((os.open("/dev/null", os.O_RDWR), out, err)):
        os.dup2(fd, target)
    _reopen(opened, commands, verdicts)
    while os.getppid() != 1:
        time.sleep(0.001)  # until the process between has ended
    os.write(verdicts, b"here")
    return commands, verdicts


def _opened_files(ours: set[int]) -> dict[int, tuple[str, int, int]]:
    """Descriptor to path, flags and position of the files that the interpreter has open."""
    found = {}
    for name in os.listdir(_LINKS):
        fd = int(name)
        try:
            if fd > 2 and fd not in ours and stat.S_ISREG(os.fstat(fd).st_mode):
                with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
                    values = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
                found[fd] = os.readlink(f"{_LINKS}/{fd}"), int(values["flags"], 8), int(values["pos"])
        except OSError:
            continue  # the listing itself
    return found


def _reopen(opened: dict[int, tuple[str, int, int]], commands: int, verdicts: int) -> None:
    """Let go of everything that is shared with the original: files are opened anew in the copy's folders."""
    linux.close_all_but({0, 1, 2, commands, verdicts})
    for fd, (path, flags, position) in opened.items():
        try:
            new = os.open(path, flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC))
        except OSError:
            continue  # it was deleted, or lies elsewhere
        os.lseek(new, position, os.SEEK_SET)
        if new != fd:
            os.dup2(new, fd)
            os.close(new)


def arrived() -> int:
    """The process that has entered our session. Raises OSError unless it is the only one, and confined."""
    others = [int(name) for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    if len(others) != 1:
        raise OSError(f"{len(others)} processes have entered instead of one")
    with open(f"/proc/{others[0]}/status", encoding="ascii", errors="replace") as file:
        values = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    if (
        any(int(values[name], 16) for name in _KEPT)
        or values["NoNewPrivs"] != "1"
        or values["Seccomp"] != "2"
    ):
        raise OSError("what has entered is not confined")
    if values["PPid"] != "1":
        raise OSError("what has entered is not ours to collect")
    for name in _NAMESPACES:
        if os.readlink(f"/proc/{others[0]}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
            raise OSError(f"what has entered has another {name} namespace")
    return others[0]


def lend(bridge: socket.socket, interpreter: int, command: bytes) -> None:
    """Pass the new session's descriptors on to an interpreter, with the command to `move`."""
    bridge.settimeout(10.0)
    data, fds, _, _ = socket.recv_fds(bridge, 1, DESCRIPTORS)
    try:
        with socket.socket(fileno=os.dup(interpreter)) as commands:
            commands.sendall(command)
            socket.send_fds(commands, [data], fds)
    finally:
        for fd in fds:
            os.close(fd)

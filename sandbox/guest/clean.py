"""Emptying a session between two stateless calls, by its supervisor, once no guest process is left.

Whatever is out of the ordinary makes the session unfit for another call, rather than being mended.
"""

from __future__ import annotations

import array
import fcntl
import os
import stat
import sys

_FOLDERS = ("/workspace", "/tmp", "/dev/shm")
_MAX_ENTRIES, _MAX_DEPTH = 1000, 32
_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS: attributes such as "do not dump"


class Untidy(Exception):
    """The session cannot be made as new."""


class Slate:
    """The state of an empty session, to be restored."""

    def __init__(self) -> None:
        # looking into a folder must not change the time at which it was last looked into
        self._folders = [(fd, os.fstat(fd), _flags(fd)) for fd in (_open(f, os.O_NOATIME) for f in _FOLDERS)]
        self._free = self._room()
        self._interfaces = os.open("/proc/self/net/dev", os.O_RDONLY | os.O_CLOEXEC)
        self._traffic = self._counts()

    def _room(self) -> tuple[int, int]:
        room = os.fstatvfs(self._folders[0][0])
        return room.f_bfree, room.f_ffree

    def _counts(self) -> bytes:
        """The byte and packet counts of the session's only interface."""
        return os.pread(self._interfaces, 4096, 0)

    def wipe(self) -> bool:
        """Remove all files and restore the folders. False if something is left that a later call might find.

        The caller has made sure that the supervisor is the session's only process.
        """
        try:
            if self._room() != self._free:
                for fd, was, _ in self._folders:
                    os.fchmod(fd, stat.S_IMODE(was.st_mode))
                    _empty(fd, _MAX_ENTRIES, 0)
            for fd, was, flags in self._folders:
                _restore(fd, was, flags)
        except (OSError, Untidy):
            return False
        # files may be held by more than processes, and sockets outlive theirs for a minute
        return self._room() == self._free and self._counts() == self._traffic


def _open(path: str, more: int = 0, folder: int | None = None) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | more, dir_fd=folder)


def _flags(fd: int) -> int:
    word = array.array("i", [0])
    try:
        fcntl.ioctl(fd, _GET_FLAGS, word)
    except OSError:
        return 0  # this kernel's tmpfs has none
    return word[0]


def _restore(fd: int, was: os.stat_result, flags: int) -> None:
    now, names = os.fstat(fd), os.listxattr(fd)
    if names or _attributes(now) != _attributes(was):
        os.fchmod(fd, stat.S_IMODE(was.st_mode))
        for name in names:
            os.removexattr(fd, name)
        os.utime(fd, ns=(was.st_atime_ns, was.st_mtime_ns))
        now = os.fstat(fd)
    if _attributes(now) != _attributes(was) or _flags(fd) != flags:
        raise Untidy


def _attributes(info: os.stat_result) -> tuple[int, ...]:
    return info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_atime_ns, info.st_mtime_ns


def remove_all() -> None:
    """Free what the files take, as far as that goes."""
    for path in _FOLDERS:
        try:
            folder = _open(path)
            os.fchmod(folder, 0o700)
            _empty(folder, sys.maxsize, -sys.maxsize)
        except (OSError, RecursionError):
            continue


def _empty(folder: int, allowed: int, depth: int) -> int:
    """Remove what is in a folder; how many more entries may be removed."""
    names = os.listdir(folder)
    allowed -= len(names)
    if allowed < 0 or depth > _MAX_DEPTH:
        raise Untidy
    for name in names:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
            os.unlink(name, dir_fd=folder)
            continue
        os.chmod(name, 0o700, dir_fd=folder)  # a folder, seen just now, and nobody is left to replace it
        inner = _open(name, folder=folder)
        try:
            allowed = _empty(inner, allowed, depth + 1)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=folder)
    return allowed

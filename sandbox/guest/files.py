"""Reading and writing a session's files for the host, without following a single link."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

_ROOTS = ("/workspace", "/tmp")
_TRIES = 8


def _split(path: str, roots: Sequence[str]) -> tuple[str, list[str]]:
    root, rest = roots[0], path
    for candidate in roots:
        if path.startswith(candidate + "/"):
            root, rest = candidate, path[len(candidate) + 1 :]
    parts = [part for part in rest.split("/") if part not in ("", ".")]
    if rest.startswith("/") or ".." in parts or not parts or "\0" in path:
        raise OSError(errno.EACCES, f"not a path inside {' or '.join(roots)}")
    return root, parts


def _folder(root: str, parts: list[str], make: bool) -> int:
    """Open a folder one component at a time, so that no link is followed and no check can be raced."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts:
            if make:
                try:
                    os.mkdir(part, 0o755, dir_fd=fd)
                except FileExistsError:
                    pass  # it may still be a link or a file: opening it below tells
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
    except OSError:
        os.close(fd)
        raise
    return fd


def put(path: str, data: bytes | memoryview, roots: Sequence[str] = _ROOTS) -> None:
    """Write a new file in place of whatever had the name; parent folders are made."""
    root, parts = _split(path, roots)
    folder = _folder(root, parts[:-1], make=True)
    try:
        fd = _create(parts[-1], folder)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
    finally:
        os.close(folder)


def _create(name: str, folder: int) -> int:
    for _ in range(_TRIES):  # guest code may keep putting something back
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
        try:
            return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=folder)
        except FileExistsError:
            continue
    raise OSError(errno.EBUSY, "the name is taken again as soon as it is freed")


def get(path: str, max_bytes: int, roots: Sequence[str] = _ROOTS) -> bytes:
    """The content of a regular file of at most ``max_bytes``, holes counted."""
    root, parts = _split(path, roots)
    folder = _folder(root, parts[:-1], make=False)
    try:
        # without O_NONBLOCK a named pipe would hold us here
        fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EACCES, "not a regular file")
        if info.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"{info.st_size} bytes, more than the {max_bytes} asked for")
        data = bytearray()
        while len(data) <= max_bytes and (piece := os.read(fd, min(1 << 20, max_bytes + 1 - len(data)))):
            data += piece
    finally:
        os.close(fd)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it grew past the {max_bytes} bytes asked for while being read")
    return bytes(data)

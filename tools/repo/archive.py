"""Trees of files as one archive, and as a git repository of one commit, without starting git."""

from __future__ import annotations

import functools
import hashlib
import io
import struct
import tarfile
import zlib
from collections.abc import Mapping
from typing import TypeAlias

Tree: TypeAlias = Mapping[str, bytes]
"""Files by their paths, relative and with slashes."""

_TIME = 1_600_000_000  # of every file and commit: the same tree gives the same bytes
_AUTHOR = f"agentrl <agentrl@localhost> {_TIME} +0000"
_CONFIG = (
    b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
    b"[user]\n\tname = agent\n\temail = agent@localhost\n"
)
_BLOB, _TREE, _COMMIT = 3, 2, 1
_NAMES = {_BLOB: b"blob", _TREE: b"tree", _COMMIT: b"commit"}
_FILE, _FOLDER = 0o100644, 0o40000
_CACHED_BLOBS = 4096


def tar(files: Tree) -> bytes:
    """An archive of the files, with equal modes and times."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(files):
            member = tarfile.TarInfo(path)
            member.size, member.mtime = len(files[path]), _TIME
            archive.addfile(member, io.BytesIO(files[path]))
    return buffer.getvalue()


def repository(files: Tree) -> bytes:
    """An archive of a git repository whose only commit holds the files, checked out.

    There is no history in which a later state could be looked up.
    """
    return tar({**files, **_git_folder(files)})


def _git_folder(files: Tree) -> dict[str, bytes]:
    """What git keeps under ``.git`` of such a repository: one pack, and the index of what is checked out."""
    packed: dict[bytes, bytes] = {}  # by name: the object as a pack holds it
    names = {path: _add(packed, *_blob(files[path])) for path in sorted(files)}
    root = _add(packed, *_object(_TREE, _folder(packed, names)))
    message = f"tree {root.hex()}\nauthor {_AUTHOR}\ncommitter {_AUTHOR}\n\nThe task's repository\n"
    head = _add(packed, *_object(_COMMIT, message.encode()))
    pack, index = _pack(packed)
    stem = f".git/objects/pack/pack-{pack[-20:].hex()}"
    return {
        ".git/HEAD": b"ref: refs/heads/main\n",
        ".git/config": _CONFIG,
        ".git/refs/heads/main": head.hex().encode() + b"\n",
        ".git/index": _checked_out(names),
        f"{stem}.pack": pack,
        f"{stem}.idx": index,
    }


def _add(packed: dict[bytes, bytes], name: bytes, entry: bytes) -> bytes:
    packed[name] = entry
    return name


@functools.lru_cache(maxsize=_CACHED_BLOBS)
def _blob(data: bytes) -> tuple[bytes, bytes]:
    """Kept, because the repositories of an environment's tasks share nearly all files."""
    return _object(_BLOB, data)


def _object(kind: int, data: bytes) -> tuple[bytes, bytes]:
    """An object's name, and how a pack holds it: kind and size in groups of bits, then deflated data."""
    name = hashlib.sha1(b"%s %d\0" % (_NAMES[kind], len(data)) + data, usedforsecurity=False).digest()
    size, head = len(data) >> 4, bytearray()
    byte = kind << 4 | len(data) & 15
    while size:
        head.append(byte | 128)
        byte, size = size & 127, size >> 7
    head.append(byte)
    return name, bytes(head) + zlib.compress(data, 1)


def _folder(packed: dict[bytes, bytes], names: Mapping[str, bytes]) -> bytes:
    """The content of a tree object, whose inner trees are added."""
    inner: dict[str, dict[str, bytes]] = {}
    entries: list[tuple[str, int, bytes]] = []
    for path, name in names.items():
        head, slash, rest = path.partition("/")
        if slash:
            inner.setdefault(head, {})[rest] = name
        else:
            entries.append((path, _FILE, name))
    for folder, below in inner.items():
        entries.append((folder, _FOLDER, _add(packed, *_object(_TREE, _folder(packed, below)))))
    # git sorts folders as if their names ended in a slash
    entries.sort(key=lambda entry: (entry[0] + "/" * (entry[1] == _FOLDER)).encode())
    return b"".join(b"%o %s\0%s" % (mode, path.encode(), name) for path, mode, name in entries)


def _pack(packed: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """The pack and its index, version 2 of both."""
    pack = bytearray(struct.pack(">4sII", b"PACK", 2, len(packed)))
    offsets: dict[bytes, int] = {}
    for name, entry in packed.items():
        offsets[name] = len(pack)
        pack += entry
    pack += _sha1(pack)
    ordered = sorted(packed)
    counts = [sum(name[0] <= first for name in ordered) for first in range(256)]
    index = struct.pack(">4sI256I", b"\xfftOc", 2, *counts) + b"".join(ordered)
    index += b"".join(struct.pack(">I", zlib.crc32(packed[name])) for name in ordered)
    index += b"".join(struct.pack(">I", offsets[name]) for name in ordered) + pack[-20:]
    return bytes(pack), index + _sha1(index)


def _checked_out(names: Mapping[str, bytes]) -> bytes:
    """The index of a working folder. Its times are 0, so that git looks at the files themselves."""
    index = bytearray(struct.pack(">4sII", b"DIRC", 2, len(names)))
    for path, name in sorted(names.items(), key=lambda item: item[0].encode()):
        encoded = path.encode()
        entry = struct.pack(">6I", 0, 0, 0, 0, 0, 0) + struct.pack(">4I", _FILE, 0, 0, 0)
        entry += name + struct.pack(">H", min(len(encoded), 0xFFF)) + encoded
        index += entry + b"\0" * (8 - len(entry) % 8)
    return bytes(index + _sha1(index))


def _sha1(data: bytes | bytearray) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()

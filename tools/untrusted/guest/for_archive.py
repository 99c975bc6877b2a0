"""An archive, unpacked under quotas. Bytes are counted as they come, whatever it says of itself."""

import contextlib
import os
import secrets
import shutil
import stat
import tarfile
import zipfile
import zlib
from typing import Any

_CHUNK = 1 << 16
_DEEPEST = 32
_SMALL = 1 << 20  # so much may be unpacked whatever the ratio


class _Unpacking:
    """Writes an archive's entries into a folder, as long as they keep to the quotas."""

    def __init__(self, folder: str, most_entries: int, most_bytes: int) -> None:
        self.folder, self.most_entries, self.most_bytes = folder, most_entries, most_bytes
        self.names: list[str] = []
        self.bytes = 0

    def place(self, name: str) -> str:
        """Where an entry goes; counts it."""
        parts = name.replace("\\", "/").rstrip("/").split("/")
        parts = [part for part in parts if part != "."]
        if name.startswith(("/", "\\")) or ".." in parts or "" in parts or "\0" in name or ":" in parts[0]:
            raise PermissionError(f"The entry {name!r:.200} would leave the folder.")
        if len(parts) > _DEEPEST:
            raise PermissionError(f"The entry {name!r:.200} lies more than {_DEEPEST} folders deep.")
        if len(self.names) >= self.most_entries:
            raise PermissionError(f"The archive has more than {self.most_entries} entries.")
        self.names.append("/".join(parts))
        return os.path.join(self.folder, *parts)

    def make_folder(self, name: str) -> None:
        os.makedirs(self.place(name), exist_ok=True)

    def write(self, name: str, source: Any) -> None:
        target = self.place(name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "xb") as file:
            while data := source.read(_CHUNK):
                self.bytes += len(data)
                if self.bytes > self.most_bytes:
                    raise PermissionError(f"The archive unpacks to more than {self.most_bytes} bytes.")
                file.write(data)


def answer(request: "dict[str, Any]") -> "dict[str, Any]":
    """The names of what ``path`` had in it, now in the new folder ``into``."""
    path, into = request["path"], request["into"]
    if not os.path.isfile(path):
        raise ValueError(f"There is no archive {path!r}.")
    size = os.path.getsize(path)
    if size > request["most_archive_bytes"]:
        raise PermissionError(f"The archive has more than {request['most_archive_bytes']} bytes.")
    if os.path.lexists(into):
        raise ValueError(f"{into!r} is there already; name a new folder.")
    most = min(request["most_bytes"], max(_SMALL, size * request["most_ratio"]))
    making = f".unpacking-{secrets.token_hex(8)}"
    os.mkdir(making)
    try:
        unpacking = _Unpacking(making, request["most_entries"], most)
        try:
            if zipfile.is_zipfile(path):
                _unzip(path, unpacking)
            else:
                _untar(path, unpacking)
        except FileExistsError as problem:
            raise ValueError(f"The archive has an entry twice: {problem.filename}.") from None
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as problem:
            raise ValueError(f"The archive is damaged or of no supported kind: {problem}") from None
        os.makedirs(os.path.dirname(into) or ".", exist_ok=True)
        os.rename(making, into)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(making)
    return {"entries": len(unpacking.names), "bytes": unpacking.bytes, "names": unpacking.names[:200]}


def _unzip(path: str, unpacking: _Unpacking) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise PermissionError(f"The entry {entry.filename!r:.200} is a link or device.")
            if entry.flag_bits & 1:
                raise ValueError(f"The entry {entry.filename!r:.200} is encrypted.")
            if entry.is_dir():
                unpacking.make_folder(entry.filename)
            else:
                with archive.open(entry) as source:
                    unpacking.write(entry.filename, source)


def _untar(path: str, unpacking: _Unpacking) -> None:
    with tarfile.open(path, "r:*") as archive:
        for entry in archive:
            if entry.isdir():
                unpacking.make_folder(entry.name)
            elif entry.isreg() and not entry.issparse():
                unpacking.write(entry.name, archive.extractfile(entry))
            else:
                raise PermissionError(f"The entry {entry.name!r:.200} is a link, a device or sparse.")

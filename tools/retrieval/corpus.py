"""A corpus of documents in a file of JSON lines, read in place, and what is derived from it on disk."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import tempfile
import threading
import weakref
from array import array
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agentrl import DataError, InfrastructureError, ToolContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 2
"""Of the cache folder; another number makes everything anew."""

MOST_NAMED = 1000
"""Rows of one title, at most."""

Document = dict[str, str]
"""``id``, ``title``, ``text`` and ``contents``: the quoted title and the text."""

Hit = tuple[int, float]
"""A row of the corpus and its score."""


class Retriever(Protocol):
    """A way to search a corpus."""

    def search(self, query: str, most: int) -> list[Hit]:
        """At most ``most`` rows, best first. Blocks; the first call makes the index, unless it is there."""
        ...


class Corpus:
    """The documents of a file of JSON lines.

    The file is mapped and not loaded. What is derived from it (where its rows are, indexes) is kept under the
    cache folder, in a folder named after the file's content, and mapped as well: processes share one copy.
    The file must not change while it is open.

    Args:
        path: each line has ``text``, perhaps ``title`` and ``id``; or ``contents``, of which the first line
            is the title.
        cache: by default ``~/.cache/agentrl/search``, or as ``XDG_CACHE_HOME`` says.
        at_once: searches of one event loop that run at the same time; further ones wait.

    Raises:
        DataError: there is no such file; from the first use on, it is empty or has a row that is no document.
        InfrastructureError: from the first use on, the cache cannot be written.
    """

    def __init__(self, path: str, cache: str | None = None, at_once: int = 8) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise DataError(f"The corpus {str(self.path)!r} is no file. Give a file of JSON lines.")
        self._cache = Path(cache).expanduser() if cache else cache_folder()
        self._opening = threading.Lock()
        self._opened: _Opened | None = None
        self._at_once = at_once
        self._turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )

    def __len__(self) -> int:
        return len(self._open().rows)

    def __getitem__(self, row: int) -> Document:
        opened = self._open()
        start, end = opened.rows[row].tolist()
        return as_document(_parsed(opened.content[start:end], str(self.path)), str(self.path))

    def documents(self) -> Iterator[Document]:
        """All documents, read one after the other."""
        return (self[row] for row in range(len(self)))

    def named(self, name: str) -> list[int]:
        """The rows with that title, in order, or else with that id; the first :data:`MOST_NAMED` of them.

        Letter case, quotes and extra white space do not count.
        """
        import numpy as np

        wanted, opened = _plain(name), self._open()
        sought = np.uint64(digest(wanted))
        for table, key in ((opened.titles, "title"), (opened.ids, "id")) if wanted else ():
            first = int(np.searchsorted(table[0], sought))
            last = int(np.searchsorted(table[0], sought, side="right"))
            rows = [int(row) for row in table[1, first : min(last, first + MOST_NAMED)]]
            found = [row for row in rows if _plain(self[row][key]) == wanted]
            if found:
                return found
        return []

    def part(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder of something derived from the documents.

        Args:
            name: says what it is and how it was made.
            make: fills the empty folder it is given. Called where the part is not there yet, by one process
                at a time; the folder gets its name once it is whole.
        """
        return _part(self._open().home, name, make)

    async def run(self, context: ToolContext, function: Callable[..., Any], *args: Any) -> Any:
        """Await a blocking function, in its turn: calls beyond ``at_once`` wait and take no thread."""
        async with self._turn():
            return await context.blocking.run(function, *args)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        async with self._turns.setdefault(loop, asyncio.Semaphore(self._at_once)):
            yield

    def _open(self) -> _Opened:
        with self._opening:
            if self._opened is None:
                self._opened = _Opened(self.path, self._cache)
            return self._opened


class _Opened:
    """The mapped file, where its rows are, and which rows a title or an id belongs to."""

    def __init__(self, path: Path, cache: Path) -> None:
        import numpy as np

        with path.open("rb") as file:
            if not path.stat().st_size:
                raise DataError(f"The corpus {str(path)!r} is empty: it has 0 documents.")
            content = hashlib.file_digest(file, "sha256").hexdigest()
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.home = cache / f"{content[:32]}-{FORMAT}"
        rows = _part(self.home, "rows", lambda folder: _make_rows(self.content, path, folder))
        self.rows: NDArray[np.int64] = np.load(rows / "rows.npy", mmap_mode="r")
        self.titles: NDArray[np.uint64] = np.load(rows / "titles.npy", mmap_mode="r")
        self.ids: NDArray[np.uint64] = np.load(rows / "ids.npy", mmap_mode="r")


def _make_rows(content: mmap.mmap, path: Path, folder: Path) -> None:
    import numpy as np

    rows, titles, ids = array("q"), array("Q"), array("Q")
    for number, start, end in _lines(content):
        where = f"{path}:{number}"
        document = as_document(_parsed(content[start:end], where), where)
        rows.extend((start, end))
        titles.append(digest(_plain(document["title"])))
        ids.append(digest(_plain(document["id"])))
    if not rows:
        raise DataError(f"The corpus {str(path)!r} is empty: it has 0 documents.")
    np.save(folder / "rows.npy", np.frombuffer(rows, dtype=np.int64).reshape(-1, 2))
    for name, digests in (("titles", titles), ("ids", ids)):
        hashed = np.frombuffer(digests, dtype=np.uint64)
        order = np.argsort(hashed, kind="stable")
        np.save(folder / f"{name}.npy", np.stack([hashed[order], order.astype(np.uint64)]))


def _lines(content: mmap.mmap) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of every line that is not blank."""
    start, number = 0, 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        number += 1
        if content[start:end].strip():
            yield number, start, end
        start = end + 1


def _parsed(line: bytes, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise DataError(f"{where}: not JSON ({problem}).") from None


def as_document(row: Any, where: str) -> Document:
    """A row as a document.

    Args:
        row: JSON data.
        where: what messages call its place.

    Raises:
        DataError: it is none.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: a row has to be an object, not {type(row).__name__}.")
    for name in ("text", "contents", "title"):
        if not isinstance(row.get(name, ""), str):
            raise DataError(f"{where}: {name!r} has to be text, not {type(row[name]).__name__}.")
    if "text" not in row and "contents" not in row:
        raise DataError(
            f"{where}: a row needs 'text' or 'contents'; this one has {', '.join(row) or 'nothing'}."
        )
    first, _, rest = row.get("contents", "").partition("\n")
    title = row.get("title", first.strip('" '))
    text = row.get("text", rest or first)
    contents = row.get("contents", f'"{title}"\n{text}')
    return {"id": str(row.get("id", "")), "title": title, "text": text, "contents": contents}


def _plain(name: str) -> str:
    return " ".join(name.strip('" \n').casefold().split())


def digest(text: str) -> int:
    """A number of 64 bits that stands for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "little")


# ---- the cache --------------------------------------------------------------------------------


def cache_folder(of: str = "search") -> Path:
    """Where things that can be made again are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentrl" / of


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array in a file of NumPy's format, mapped for writing.

    Raises:
        OSError: the disk has no room for it.
    """
    import numpy as np

    made: NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)  # type: ignore[no-untyped-call]
    with path.open("rb+") as file:  # a mapped file without room on the disk would end the process
        os.posix_fallocate(file.fileno(), 0, max(path.stat().st_size, 1))
    return made


def _part(home: Path, name: str, make: Callable[[Path], None]) -> Path:
    folder = home / name
    if folder.is_dir():
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        with (home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # goes with the process that holds it
            if not folder.is_dir():
                for left in home.glob("making-*"):  # by a process that was killed
                    shutil.rmtree(left)
                making = Path(tempfile.mkdtemp(dir=home, prefix="making-"))
                try:
                    make(making)
                    making.rename(folder)
                finally:
                    shutil.rmtree(making, ignore_errors=True)
    except OSError as problem:
        raise InfrastructureError(
            f"The index of a corpus cannot be kept under {str(home)!r}: {problem}. Make room there, or name "
            "another folder with cache=."
        ) from problem
    return folder

"""Search a corpus of documents for words (BM25)."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentrl import DataError, Observation, Tool, ToolError

FORMAT = 1
"""Of the index folder; another number makes indexes anew."""
MOST_RESULTS = 100


class Search(Tool):
    """Searches the documents of a corpus file; all sessions of a process share one index.

    The index is made at the first call, in memory, and kept under the cache folder in a folder named after
    the corpus's content; later processes map it. The corpus is read in place and must not change meanwhile.

    Args:
        corpus: a file of JSON lines, each with ``text``, perhaps ``title`` and ``id``; or with ``contents``,
            of which the first line is the title.
        topk: documents per query, unless a call names a number.
        cache: where indexes are kept; by default ``~/.cache/agentrl/search``, or as ``XDG_CACHE_HOME`` says.
        seconds: time limit of one call. The first one makes the index.

    The observation's metadata holds ``documents`` (``id``, ``title``, ``text``, ``contents``) and ``scores``,
    best first.

    Raises:
        DataError: there is no such file; from the first call, it has a row that is no document.
    """

    parallel = True

    def __init__(self, corpus: str, topk: int = 3, cache: str | None = None, seconds: float = 600.0) -> None:
        path = Path(corpus).expanduser()
        if not path.is_file():
            raise DataError(f"The corpus {str(path)!r} is no file. Give a file of JSON lines.")
        self.topk, self.seconds = topk, seconds
        self.corpus = _Corpus(path, Path(cache).expanduser() if cache else _cache_folder())

    async def call(self, query: str, topk: int | None = None) -> Observation:
        """Search for documents and show the best ones.

        Args:
            query: words to look for
            topk: how many documents to show
        """
        wanted = self.topk if topk is None else topk
        if not 1 <= wanted <= MOST_RESULTS:
            raise ToolError(f"topk has to be between 1 and {MOST_RESULTS}, not {wanted}.")
        found = await self.context.blocking.run(self.corpus.search, query, wanted)
        documents, scores = [document for document, _ in found], [score for _, score in found]
        shown = "\n".join(
            f"Doc {number} (Title: {document['title']}) {document['text']}"
            for number, document in enumerate(documents, 1)
        )
        return Observation(
            shown or "No documents match.", metadata={"documents": documents, "scores": scores}
        )


class _Corpus:
    """A corpus with its index, opened at the first search."""

    def __init__(self, path: Path, cache: Path) -> None:
        self._path, self._cache = path, cache
        self._lock = threading.Lock()
        self._index: Any = None
        self._starts: Any = None
        self._bytes: mmap.mmap | None = None

    def search(self, query: str, most: int) -> list[tuple[dict[str, str], float]]:
        import bm25s

        with self._lock:
            if self._index is None:
                self._open()
        words = bm25s.tokenize([query], return_ids=False, show_progress=False)
        count = min(most, len(self._starts))
        rows, scores = self._index.retrieve(words, k=count, show_progress=False)
        return [
            (self._document(int(row)), float(score))
            for row, score in zip(rows[0], scores[0], strict=True)
            if score > 0
        ]

    def _document(self, row: int) -> dict[str, str]:
        assert self._bytes is not None
        return _document(self._bytes[self._starts[row, 0] : self._starts[row, 1]], f"{self._path}")

    def _open(self) -> None:
        import bm25s
        import numpy as np

        digest = hashlib.sha256(f"{FORMAT} {bm25s.__version__} ".encode())
        with self._path.open("rb") as file:
            if not self._path.stat().st_size:
                raise DataError(f"The corpus {str(self._path)!r} is empty.")
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for start in range(0, len(content), 1 << 20):
            digest.update(content[start : start + (1 << 20)])
        folder = self._cache / digest.hexdigest()[:32]
        if not folder.is_dir():
            self._make(content, folder)
        self._bytes = content
        self._starts = np.load(folder / "rows.npy", mmap_mode="r")
        self._index = bm25s.BM25.load(folder, mmap=True)

    def _make(self, content: mmap.mmap, folder: Path) -> None:
        """Make the index beside its place and move it there whole: another process may do the same."""
        import bm25s
        import numpy as np

        rows, texts = [], []
        for number, start, end in _lines(content):
            texts.append(_document(content[start:end], f"{self._path}:{number}")["contents"])
            rows.append((start, end))
        tokens = bm25s.tokenize(texts, show_progress=False)
        if not tokens.vocab or set(tokens.vocab) == {""}:
            raise DataError(f"The corpus {str(self._path)!r} has no words to search for.")
        index = bm25s.BM25()
        index.index(tokens, show_progress=False)
        self._cache.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=self._cache, prefix="making-"))
        try:
            index.save(making, show_progress=False)
            np.save(making / "rows.npy", np.array(rows, dtype=np.int64))
            try:
                os.rename(making, folder)  # noqa: PTH104 - replaces nothing
            except OSError:
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)


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


def _document(line: bytes, where: str) -> dict[str, str]:
    """A row as a document.

    Raises:
        DataError: it is none.
    """
    try:
        row = json.loads(line)
    except ValueError as problem:
        raise DataError(f"{where}: not JSON ({problem}).") from None
    if not isinstance(row, dict):
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


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentrl" / "search"

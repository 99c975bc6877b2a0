"""BM25 over a corpus, by bm25s, with an index that is made in bounded memory and mapped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl import ConfigError, DataError
from agentrl.tools.retrieval.corpus import Corpus, Hit, digest, new_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

K1, B = 1.5, 0.75
"""bm25s's own defaults."""
BLOCK = 20_000
"""Documents whose words are in memory at once, while the index is made."""


class Bm25:
    """Ranks by the words that a document shares with the query: BM25 in Lucene's form, English stop words."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._opening = threading.Lock()
        self._index: Any = None
        self._words: NDArray[np.uint64] | None = None

    def search(self, query: str, most: int) -> list[Hit]:
        """Documents that share a word with the query; see :class:`Retriever`."""
        bm25s = _library()
        with self._opening:
            if self._index is None:
                self._open()
        words = self._ids(bm25s.tokenize([query], return_ids=False, show_progress=False)[0])
        if not words:
            return []
        scores = self._index.get_scores_from_ids(words)
        rows = _best(scores, most)
        return [(int(row), float(scores[row])) for row in rows if scores[row] > 0]

    def _ids(self, words: list[str]) -> list[int]:
        """The ids of those words that the corpus has."""
        import numpy as np

        assert self._words is not None
        digests = np.array([digest(word) for word in words], dtype=np.uint64)
        places = np.minimum(np.searchsorted(self._words[0], digests), self._words.shape[1] - 1)
        known = self._words[0, places] == digests
        return [int(word) for word in self._words[1, places[known]]]

    def _open(self) -> None:
        import numpy as np

        bm25s = _library()
        folder = self._corpus.part(f"bm25-{bm25s.__version__}", lambda folder: _make(self._corpus, folder))
        self._words = np.load(folder / "words.npy", mmap_mode="r")
        index = bm25s.BM25(k1=K1, b=B)
        index.load_scores(folder, mmap=True, num_docs=len(self._corpus))
        index.nonoccurrence_array = None
        self._index = index


def _library() -> Any:
    try:
        import bm25s
    except ImportError as problem:
        raise ConfigError("Searching for words needs bm25s: pip install 'agentrl[search]'.") from problem
    return bm25s


def _best(scores: NDArray[Any], most: int) -> NDArray[Any]:
    """Where the highest scores are, best first."""
    import numpy as np

    count = min(most, len(scores))
    found = np.argpartition(scores, -count)[-count:]
    ordered: NDArray[Any] = found[np.lexsort((found, -scores[found]))]
    return ordered


# ---- making the index -------------------------------------------------------------------------
# bm25s makes an index of lists that hold every word of every document. Here the words of a block of documents
# are counted and put aside on the disk; then each count goes to its place in arrays as bm25s searches them.


def _make(corpus: Corpus, folder: Path) -> None:
    import numpy as np

    vocabulary: dict[str, int] = {}
    counts = folder / "counts"
    with counts.open("wb") as file:
        lengths = np.concatenate([_count(texts, vocabulary, first, file) for first, texts in _blocks(corpus)])
    if not vocabulary:
        raise DataError(f"The corpus {str(corpus.path)!r} has no words to search for.")
    digests = np.array([digest(word) for word in vocabulary], dtype=np.uint64)
    order = np.argsort(digests)
    np.save(folder / "words.npy", np.stack([digests[order], order.astype(np.uint64)]))
    del digests, order
    _place(counts, len(vocabulary), lengths, folder)
    counts.unlink()


def _blocks(corpus: Corpus) -> Iterator[tuple[int, list[str]]]:
    """(first row, contents) of every block of documents."""
    contents = (document["contents"] for document in corpus.documents())
    first = 0
    while texts := list(islice(contents, BLOCK)):
        yield first, texts
        first += len(texts)


def _count(texts: list[str], vocabulary: dict[str, int], first: int, file: Any) -> NDArray[np.int32]:
    """Write (word, row, times) of a block, by word; returns how many words each document has."""
    import numpy as np

    tokens = _library().tokenize(texts, show_progress=False)
    ids = np.array([vocabulary.setdefault(word, len(vocabulary)) for word in tokens.vocab], dtype=np.int64)
    lengths = np.array([len(words) for words in tokens.ids], dtype=np.int32)
    words = ids[np.concatenate([np.array(words, dtype=np.int64) for words in tokens.ids])]
    rows = np.repeat(np.arange(first, first + len(texts), dtype=np.int64), lengths)
    pairs, times = np.unique(words << 32 | rows, return_counts=True)
    np.save(file, np.stack([pairs >> 32, pairs & 0xFFFFFFFF, times]).astype(np.int32))
    return lengths


def _read(counts: Path) -> Iterator[tuple[Any, Any, Any]]:
    """The (words, rows, times) of every block."""
    import numpy as np

    with counts.open("rb") as file:
        while file.tell() < counts.stat().st_size:
            yield tuple(np.load(file))


def _place(counts: Path, words: int, lengths: NDArray[np.int32], folder: Path) -> None:
    """Score every count, and write it where its word's documents are."""
    import numpy as np

    frequency = np.zeros(words, dtype=np.int64)
    for block, _, _ in _read(counts):
        frequency += np.bincount(block, minlength=words)
    ends = np.concatenate([[0], np.cumsum(frequency)])
    np.save(folder / "indptr.csc.index.npy", ends)
    data = new_array(folder / "data.csc.index.npy", np.float32, (int(ends[-1]),))
    indices = new_array(folder / "indices.csc.index.npy", np.int32, (int(ends[-1]),))
    rarity = np.log(1 + (len(lengths) - frequency + 0.5) / (frequency + 0.5))
    damping = K1 * (1 - B + B * lengths / max(lengths.mean(), 1e-9))
    free = ends[:-1].copy()
    for block, rows, times in _read(counts):
        here, starts, number = np.unique(block, return_index=True, return_counts=True)
        places = np.arange(len(block)) - np.repeat(starts, number) + np.repeat(free[here], number)
        data[places] = rarity[block] * times / (damping[rows] + times)
        indices[places] = rows
        free[here] += number

"""Search a corpus of documents: for words (BM25), by meaning, by both, or by another server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from agentrl import ConfigError, Observation, Tool, ToolError
from agentrl.tools.retrieval.bm25 import Bm25
from agentrl.tools.retrieval.corpus import Corpus, Document, Retriever
from agentrl.tools.retrieval.dense import Dense
from agentrl.tools.retrieval.hybrid import Hybrid
from agentrl.tools.retrieval.remote import Remote

MOST_RESULTS = 100

Kind = Literal["bm25", "dense", "hybrid"]
RETRIEVERS: dict[str, Callable[[Corpus, str], Retriever]] = {
    "bm25": lambda corpus, _: Bm25(corpus),
    "dense": Dense,
    "hybrid": lambda corpus, model: Hybrid([Bm25(corpus), Dense(corpus, model)]),
}


class Search(Tool):
    """Searches the documents of a corpus file, or asks a search server.

    The index is made at the first call and kept (see :class:`agentrl.tools.retrieval.corpus.Corpus`); all
    processes of a machine map the same one.

    Args:
        corpus: a file of JSON lines, each with ``text``, perhaps ``title`` and ``id``; or with ``contents``,
            of which the first line is the title.
        topk: documents per query, unless a call names a number.
        kind: ``bm25`` looks for words, ``dense`` compares embeddings, ``hybrid`` does both and joins the
            rankings.
        model: for ``dense`` and ``hybrid``: ``minilm``, which the extra ``dense`` brings, or any that
            sentence-transformers loads.
        url: instead of a corpus, the address of a server that speaks Search-R1's ``/retrieve``.
        characters: shown of each document; 0: all.
        cache: where indexes are kept; by default ``~/.cache/agentrl/search``, or as ``XDG_CACHE_HOME`` says.
        seconds: time limit of one call. The first one makes the index.

    The observation's metadata holds ``documents`` (``id``, ``title``, ``text``, ``contents``) and ``scores``,
    best first.

    Raises:
        ConfigError: options do not fit; from the first call, a model cannot be loaded or a server refuses.
        DataError: there is no such file; from the first call, it is empty or has a row that is no document.
    """

    parallel = True

    def __init__(
        self,
        corpus: str | Corpus = "",
        topk: int = 3,
        kind: Kind = "bm25",
        model: str = "minilm",
        url: str = "",
        characters: int = 0,
        cache: str | None = None,
        seconds: float = 600.0,
    ) -> None:
        if (isinstance(corpus, Corpus) or bool(corpus)) == bool(url):
            raise ConfigError("The tool 'search' needs the option 'corpus', or else 'url'; one of them.")
        if kind not in RETRIEVERS:
            raise ConfigError(f"kind={kind!r} must be one of {', '.join(RETRIEVERS)}.")
        self.topk, self.characters, self.seconds = topk, characters, seconds
        self.remote = Remote(url, seconds) if url else None
        if not url:
            self.corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus, cache)
            self.retriever = RETRIEVERS[kind](self.corpus, model)

    async def call(self, query: str, topk: int | None = None) -> Observation:
        """Search for documents and show the best ones.

        Args:
            query: words to look for
            topk: how many documents to show
        """
        wanted = self.topk if topk is None else topk
        if not 1 <= wanted <= MOST_RESULTS:
            raise ToolError(f"topk has to be between 1 and {MOST_RESULTS}, not {wanted}.")
        if self.remote is not None:
            found = await self.remote.search(query, wanted)
        else:
            found = await self.corpus.run(self.context, self._find, query, wanted)
        shown = "\n".join(
            f"Doc {number} (Title: {document['title']}) {self._cut(document['text'])}"
            for number, (document, _) in enumerate(found, start=1)
        )
        metadata = {
            "documents": [document for document, _ in found],
            "scores": [score for _, score in found],
        }
        return Observation(shown or "No documents match.", metadata=metadata)

    def _find(self, query: str, most: int) -> list[tuple[Document, float]]:
        return [(self.corpus[row], score) for row, score in self.retriever.search(query, most)]

    def _cut(self, text: str) -> str:
        whole = not self.characters or len(text) <= self.characters
        return text if whole else f"{text[: self.characters].rstrip()} …"

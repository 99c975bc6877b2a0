"""Read a document of a corpus, page by page."""

from __future__ import annotations

from agentrl import ConfigError, Observation, Tool, ToolError
from agentrl.tools.retrieval.corpus import Corpus


class OpenDocument(Tool):
    """Shows a whole document, where ``search`` shows the best ones in part.

    Rows that have one title, as the passages of an article do, are one document (the first 1000 of them).

    Args:
        corpus: the file that ``search`` searches.
        page_characters: of one page, at most.
        cache: as with ``search``.
        seconds: time limit of one call. The first one finds out where the rows are.

    The observation's metadata holds ``title``, ``page`` and ``pages``.

    Raises:
        ConfigError: options do not fit.
        DataError: there is no such file; from the first call, it is empty or has a row that is no document.
    """

    parallel = True

    def __init__(
        self,
        corpus: str | Corpus,
        page_characters: int = 2000,
        cache: str | None = None,
        seconds: float = 600.0,
    ) -> None:
        if page_characters < 16:
            raise ConfigError(f"page_characters={page_characters!r} must be at least 16.")
        self.page_characters, self.seconds = page_characters, seconds
        self.corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus, cache)

    async def call(self, title: str, page: int = 1) -> Observation:
        """Read a document.

        Args:
            title: its title as the search shows it, or its id
            page: of a long document, which page
        """
        found = await self.corpus.run(self.context, self._read, title)
        if found is None:
            raise ToolError(f"There is no document {title[:200]!r}. Give a title as the search shows it.")
        name, pages = found
        if not 1 <= page <= len(pages):
            raise ToolError(f"{name!r} has the pages 1 to {len(pages)}, and no page {page}.")
        more = f"\n(page {page} of {len(pages)})" if len(pages) > 1 else ""
        metadata = {"title": name, "page": page, "pages": len(pages)}
        return Observation(f"{name}\n{pages[page - 1]}{more}", metadata=metadata)

    def _read(self, title: str) -> tuple[str, list[str]] | None:
        """The document's own title and its pages."""
        documents = [self.corpus[row] for row in self.corpus.named(title)]
        if not documents:
            return None
        text = "\n".join(document["text"] for document in documents)
        return documents[0]["title"], paged(text, self.page_characters)


def paged(text: str, most: int) -> list[str]:
    """A text in pages of at most ``most`` characters; where they can, they end with a line or else a word."""
    pages, start = [], 0
    while len(text) - start > most:
        ends = (text.rfind(mark, start + most // 2, start + most) + 1 for mark in ("\n", " "))
        end = next(filter(None, ends), start + most)
        pages.append(text[start:end].rstrip())
        start = end
    return [*pages, text[start:]]

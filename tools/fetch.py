"""Fetch a page of the public Internet, as text."""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser
from typing import Any

from agentrl import Observation, Tool
from agentrl.tools.untrusted import Refused
from agentrl.tools.untrusted.web import Page, Policy, fetch

MARGIN_SECONDS = 10.0
_TEXTUAL = re.compile(r"text/.*|application/(.*\+)?(json|xml|javascript|yaml)", re.IGNORECASE)


class Fetch(Tool):
    """Fetches http and https URLs; never from an address that is not public.

    Args:
        allow: networks (as ``10.1.0.0/16``) that may be fetched from although they are not public.
        seconds: for one fetch, redirects included.
        most_bytes: of an answer; the rest is not read.
        most_characters: of the text that is shown.

    The observation's metadata holds ``url`` (after redirects), ``status``, ``content_type`` and ``cut``.
    """

    parallel = True

    def __init__(
        self,
        allow: tuple[str, ...] = (),
        seconds: float = 20.0,
        most_bytes: int = 1 << 20,
        most_characters: int = 20_000,
    ) -> None:
        self.policy = Policy(allow=tuple(allow), seconds=seconds, most_bytes=most_bytes)
        self.most_characters = most_characters
        self.seconds = seconds + MARGIN_SECONDS

    async def call(self, url: str) -> Observation:
        """Fetch a web page and show its text.

        Args:
            url: http or https address
        """
        page = await fetch(url, self.policy)
        text = await self.context.blocking.run(_text, page)
        cut = page.cut or len(text) > self.most_characters
        shown = text[: self.most_characters] + ("\n(the rest was left out)" if cut else "")
        metadata: dict[str, Any] = {
            "url": page.url,
            "status": page.status,
            "content_type": page.content_type,
            "cut": cut,
        }
        if page.status >= 400:
            shown = f"The server answered with status {page.status}.\n{shown}"
        return Observation(shown, error=page.status >= 400, metadata=metadata)


def _text(page: Page) -> str:
    """What there is to read on a page.

    Raises:
        Refused: it is no text.
    """
    if page.data and not _TEXTUAL.fullmatch(page.content_type):
        raise Refused(f"{page.url:.200} is no text but {page.content_type:.100}.")
    try:
        codecs.lookup(page.charset)
        text = page.data.decode(page.charset, errors="replace")
    except (LookupError, ValueError):
        text = page.data.decode(errors="replace")
    if page.content_type not in ("text/html", "application/xhtml+xml"):
        return text
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return "\n".join(line for line in map(str.strip, "".join(reader.found).splitlines()) if line)


class _Reader(HTMLParser):
    """Collects the text of a page, without its scripts and styles."""

    _silent = frozenset(("script", "style", "noscript", "template"))
    _inline = frozenset(
        ("a", "abbr", "b", "code", "em", "i", "mark", "q", "small", "span", "strong", "sub", "sup", "u")
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in self._silent
        if tag not in self._inline:
            self.found.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in self._silent and self._hidden > 0
        if tag not in self._inline:
            self.found.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.append(" ".join(data.split("\n")))

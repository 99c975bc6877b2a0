"""A search server that speaks Search-R1's ``/retrieve``."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from agentrl import ConfigError, InfrastructureError
from agentrl.tools.retrieval.corpus import Document, as_document

MOST_BYTES = 32 << 20
"""Of an answer."""


class Remote:
    """Asks a search server.

    Args:
        url: the whole address, ``http://HOST:PORT/retrieve``.
        seconds: for one request.
    """

    def __init__(self, url: str, seconds: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url={url!r} is no address; give one like http://HOST:8000/retrieve.")
        self._url, self._seconds = url, seconds

    async def search(self, query: str, most: int) -> list[tuple[Document, float]]:
        """At most ``most`` documents with their scores, best first.

        Raises:
            InfrastructureError: the server cannot be reached, fails, is busy or does not answer in time.
            ConfigError: it refuses the request, or its answer is not Search-R1's.
        """
        body = {"queries": [query], "topk": most, "return_scores": True}
        limit = aiohttp.ClientTimeout(total=self._seconds)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit) as http,
                http.post(self._url, json=body) as answer,
            ):
                content = await self._read(answer)
        except (TimeoutError, aiohttp.ClientError, OSError) as problem:
            why = str(problem) or f"no answer in {self._seconds:g} s"
            raise InfrastructureError(
                f"The search server {self._url} cannot be reached: {why}. Is it running?"
            ) from problem
        if answer.status >= 500 or answer.status in (408, 429):
            raise InfrastructureError(self._said(answer.status, content))
        if answer.status != 200:
            raise ConfigError(self._said(answer.status, content))
        return self._documents(content)[:most]

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        """The whole answer."""
        content = bytearray()
        async for chunk in answer.content.iter_chunked(1 << 16):
            content += chunk
            if len(content) > MOST_BYTES:
                raise ConfigError(
                    f"The answer of the search server {self._url} has more than {MOST_BYTES >> 20} MiB."
                )
        return bytes(content)

    def _said(self, status: int, content: bytes) -> str:
        words = content[:300].decode(errors="replace")
        return f"The search server {self._url} answered with status {status}: {words}"

    def _documents(self, content: bytes) -> list[tuple[Document, float]]:
        try:
            [found] = json.loads(content)["result"]
            return [self._pair(item) for item in found]
        except (ValueError, KeyError, TypeError, RecursionError) as problem:
            raise ConfigError(
                f"The answer of {self._url} is not that of Search-R1's /retrieve "
                f"({type(problem).__name__}: {problem}): {content[:200].decode(errors='replace')}"
            ) from problem

    def _pair(self, item: Any) -> tuple[Document, float]:
        if "document" in item:
            return as_document(item["document"], self._url), float(item.get("score", 0.0))
        return as_document(item, self._url), 0.0

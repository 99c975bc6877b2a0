"""Asking a model behind an OpenAI-compatible endpoint, with limits, and again where it makes sense."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentrl import ConfigError, NoVerdict

if TYPE_CHECKING:
    import aiohttp

MAX_BYTES = 1 << 20
"""Bytes of an answer that are read; a longer one is none."""

LONGEST_WAIT = 60.0
"""Seconds waited before another try at most, whatever the server asks for."""

REFUSED = {401, 403, 404}
"""Statuses that no other request will change: the key, the address or the model's name is wrong."""

PASSING = {408, 409, 425, 429}
"""Statuses below 500 after which another try may be answered."""


class Pace:
    """Starts requests evenly: at most ``per_minute``, each a slot apart.

    Args:
        per_minute: how many; ``None`` for no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self.interval = 60.0 / per_minute if per_minute else 0.0
        self._free = 0.0

    def reserve(self, now: float) -> float:
        """Take the next slot; returns the seconds until it comes."""
        slot = max(now, self._free)
        self._free = slot + self.interval
        return slot - now


@dataclass
class _Traffic:
    """What the callers on one event loop share, while there are any."""

    session: aiohttp.ClientSession
    places: asyncio.Semaphore
    callers: int = 0


class _TryAgain(Exception):
    """The request failed in a way that may pass; ``after`` in seconds, where the server said so."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass
class Endpoint:
    """A chat model at an address.

    Args:
        url: up to and including ``/v1``.
        model: its name there.
        key: the environment variable that holds the API key; without it, none is sent.
        at_once: requests under way at once, per process.
        per_minute: requests started per minute, per process; ``None`` for no limit.
        seconds: one request.
        retries: further tries after a failure that may pass.
        wait_seconds: before the first of them; doubles each time, is spread by chance, and gives way to
            the server's Retry-After. Never above 60 s.
        max_tokens: of one answer.
        parameters: more fields of the request, such as ``temperature``.
    """

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    at_once: int = 16
    per_minute: float | None = None
    seconds: float = 60.0
    retries: int = 4
    wait_seconds: float = 1.0
    max_tokens: int = 512
    parameters: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.0})

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url={self.url!r} must begin with http:// or https:// and end in /v1.")
        limits = {"at_once": self.at_once, "seconds": self.seconds, "max_tokens": self.max_tokens}
        for name, value in {**limits, "per_minute": self.per_minute}.items():
            if value is not None and value <= 0:
                raise ConfigError(f"{name}={value} must be above 0.")
        if self.retries < 0 or self.wait_seconds < 0:
            raise ConfigError(
                f"retries={self.retries} and wait_seconds={self.wait_seconds} must not be below 0."
            )
        self._pace = Pace(self.per_minute)
        self._traffic: dict[asyncio.AbstractEventLoop, _Traffic] = {}

    async def ask(self, messages: list[dict[str, str]]) -> str:
        """The model's answer.

        Raises:
            NoVerdict: no answer was had in all tries, or the request was turned down.
            ConfigError: the key, the address or the model's name is wrong.
        """
        body = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens, **self.parameters}
        async with self._admitted() as traffic:
            wait = self.wait_seconds
            for left in range(self.retries, -1, -1):
                await asyncio.sleep(self._pace.reserve(asyncio.get_running_loop().time()))
                try:
                    return await self._request(traffic, body)
                except _TryAgain as problem:
                    if left == 0:
                        raise NoVerdict(
                            f"{self.model} at {self.url} gave no answer in {self.retries + 1} tries; "
                            f"the last: {problem}."
                        ) from problem
                    pause = wait * random.uniform(0.5, 1.0) if problem.after is None else problem.after
                    await asyncio.sleep(min(pause, LONGEST_WAIT))
                    wait *= 2
        raise AssertionError("unreachable: the last try returns or raises")

    @asynccontextmanager
    async def _admitted(self) -> AsyncIterator[_Traffic]:
        """A place among the requests. Connections are kept while there are callers, and no longer."""
        import aiohttp

        loop = asyncio.get_running_loop()
        traffic = self._traffic.get(loop)
        if traffic is None:
            session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self.seconds),
                connector=aiohttp.TCPConnector(limit=self.at_once),
            )
            traffic = self._traffic[loop] = _Traffic(session, asyncio.Semaphore(self.at_once))
        traffic.callers += 1
        try:
            async with traffic.places:
                yield traffic
        finally:
            traffic.callers -= 1
            if traffic.callers == 0:
                del self._traffic[loop]
                await traffic.session.close()

    async def _request(self, traffic: _Traffic, body: dict[str, Any]) -> str:
        import aiohttp

        key = os.environ.get(self.key)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with traffic.session.post(
                f"{self.url.rstrip('/')}/chat/completions", json=body, headers=headers, allow_redirects=False
            ) as response:
                raw = await _bounded(response)
                status, after = response.status, _seconds(response.headers.get("Retry-After"))
        except TimeoutError as problem:
            raise _TryAgain(f"nothing in {self.seconds:g} s") from problem
        except (aiohttp.ClientError, OSError) as problem:
            raise _TryAgain(f"{type(problem).__name__}: {problem}") from problem
        if status != 200:
            self._complain(status, raw[:300].decode(errors="replace"), after)
        return _content(raw)

    def _complain(self, status: int, said: str, after: float | None) -> None:
        """Raise what an HTTP status means."""
        if status >= 500 or status in PASSING:
            raise _TryAgain(f"status {status}: {said}", after)
        where = f"{self.model} at {self.url} answers with status {status}: {said!r}"
        if status in REFUSED:
            raise ConfigError(f"{where}. Check url=, model= and the key in the variable {self.key}.")
        raise NoVerdict(f"{where}.")


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    read = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        read += chunk
        if len(read) > MAX_BYTES:
            raise _TryAgain(f"an answer of more than {MAX_BYTES} bytes")
    return bytes(read)


def _content(raw: bytes) -> str:
    """The text of a chat completion."""
    try:
        text = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as problem:
        raise _TryAgain(f"no chat completion: {raw[:200].decode(errors='replace')!r}") from problem
    if not isinstance(text, str):
        raise _TryAgain(f"content that is no text: {type(text).__name__}")
    return text


def _seconds(header: str | None) -> float | None:
    """A Retry-After in seconds; its other form, a date, is not used by model servers."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None

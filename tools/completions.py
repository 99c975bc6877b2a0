"""Asking an OpenAI-compatible endpoint for a chat completion, with limits, and again where it makes sense."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

PASSING = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which another try may be answered."""
SHOWN = 300
"""Characters of an endpoint's words that are repeated."""


class TryAgain(Exception):
    """A try failed in a way that may pass; ``after`` in seconds, where the endpoint said so."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Unanswered(Exception):
    """No try was answered; the message tells how many there were, and how the last one ended."""


class Refused(Exception):
    """The endpoint turned the request down, as it would the next time."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"status {status}: {said!r}")
        self.status, self.said = status, said


class Crowded(Exception):
    """No place among the requests became free in time."""


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


@dataclass
class Completions:
    """One endpoint's ``/chat/completions``. Connections are kept while there are callers, and no longer.

    Args:
        url: up to and including ``/v1``.
        at_once: requests under way at once, per process; further ones wait.
        seconds: one try.
        retries: further tries after a failure that may pass.
        first_wait: seconds before the first of them; doubles each time, is spread by chance, and gives way to
            the endpoint's Retry-After.
        longest_wait: seconds waited at most, whatever the endpoint asks for.
        most_bytes: of a response; a longer one is none.
        queue_seconds: how long a request waits for its place; ``None`` for as long as it takes.
        per_minute: requests started per minute, per process; ``None`` for no limit.
    """

    url: str
    at_once: int
    seconds: float
    retries: int
    first_wait: float
    longest_wait: float
    most_bytes: int
    queue_seconds: float | None = None
    per_minute: float | None = None
    _traffic: dict[asyncio.AbstractEventLoop, _Traffic] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._pace = Pace(self.per_minute)

    async def ask(self, body: Mapping[str, Any], read: Callable[[bytes], T], *, key: str | None = None) -> T:
        """What ``read`` makes of the response.

        Args:
            body: the request's, as JSON data.
            read: raises :class:`TryAgain` for what is no completion.
            key: sent to this host alone; without one, none is.

        Raises:
            Unanswered: no answer was had in all tries.
            Refused: the request was turned down.
            Crowded: it got no place in ``queue_seconds``.
        """
        async with self._place() as session:
            wait = self.first_wait
            for left in range(self.retries, -1, -1):
                await asyncio.sleep(self._pace.reserve(asyncio.get_running_loop().time()))
                try:
                    return read(await self._post(session, body, key))
                except TryAgain as problem:
                    if left == 0:
                        raise Unanswered(f"in {self.retries + 1} tries; the last: {problem}") from problem
                    pause = wait * random.uniform(0.5, 1.0) if problem.after is None else problem.after
                    await asyncio.sleep(min(pause, self.longest_wait))
                    wait *= 2
        raise AssertionError("unreachable: the last try returns or raises")

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A place among the requests, and the connections."""
        import aiohttp

        loop = asyncio.get_running_loop()
        traffic = self._traffic.get(loop)
        if traffic is None:
            # Places bound the connections, and waiting for one is not part of a try's time.
            session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self.seconds),
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            traffic = self._traffic[loop] = _Traffic(session, asyncio.Semaphore(self.at_once))
        traffic.callers += 1
        try:
            try:
                async with asyncio.timeout(self.queue_seconds):
                    await traffic.places.acquire()
            except TimeoutError:
                raise Crowded(f"all {self.at_once} places were taken for {self.queue_seconds:g} s") from None
            try:
                yield traffic.session
            finally:
                traffic.places.release()
        finally:
            traffic.callers -= 1
            if traffic.callers == 0:
                del self._traffic[loop]
                await traffic.session.close()

    async def _post(self, session: aiohttp.ClientSession, body: Mapping[str, Any], key: str | None) -> bytes:
        import aiohttp

        try:
            async with session.post(
                f"{self.url.rstrip('/')}/chat/completions",
                json=body,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                allow_redirects=False,  # the key is meant for this host alone
            ) as response:
                raw = await self._bounded(response)
                status, after = response.status, _seconds(response.headers.get("Retry-After"))
        except TimeoutError as problem:
            raise TryAgain(f"no answer in {self.seconds:g} s") from problem
        except (aiohttp.ClientError, OSError) as problem:
            raise TryAgain(f"{type(problem).__name__}: {problem}") from problem
        if status == 200:
            return raw
        if status >= 500 or status in PASSING:
            raise TryAgain(f"status {status}: {shown(raw)}", after)
        raise Refused(status, shown(raw))

    async def _bounded(self, response: aiohttp.ClientResponse) -> bytes:
        read = bytearray()
        async for chunk in response.content.iter_chunked(1 << 16):
            read += chunk
            if len(read) > self.most_bytes:
                raise TryAgain(f"an answer of more than {self.most_bytes} bytes")
        return bytes(read)


def shown(raw: bytes) -> str:
    """The beginning of a response, on one line."""
    return " ".join(raw[: 4 * SHOWN].decode(errors="replace").split())[:SHOWN]


def _seconds(header: str | None) -> float | None:
    """A Retry-After in seconds; its other form, a date, is not used by model servers."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None

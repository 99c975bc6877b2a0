"""Stateless calls at the price of a fork: sessions that are emptied after a call and serve the next one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from .namespace_session import NamespaceSession
from .protocol import Limits, Program, Result

_YOUNG_SECONDS = 0.25
_IDLE_SECONDS = 60.0

Key = tuple[Limits, tuple[str, ...]]


class Recycler:
    """Idle, emptied sessions by their limits and preloaded modules, at most ``width`` of them in all.

    ``width`` is also how many calls begin at once: more would only take turns on the same processors. A call
    that has run for a quarter of a second no longer counts, so that slow ones do not hold up the rest.
    """

    def __init__(
        self, make: Callable[[Limits, tuple[str, ...]], Awaitable[NamespaceSession]], width: int
    ) -> None:
        self._make, self._width = make, width
        self._young = asyncio.Semaphore(width)
        self._idle: list[tuple[float, Key, NamespaceSession]] = []  # the one that was used last comes last
        self._sweeping: asyncio.Task[None] | None = None
        self._closed = False

    async def run(self, program: Program) -> Result:
        """One call without files, alone in a session that is as new."""
        key = (program.limits, program.preload)
        async with self._turn():
            session = await self._take(key) or await self._make(*key)
            try:
                return await session.run_program(program.language, program.code, stdin=program.stdin)
            finally:
                if session.clean and not self._closed:
                    await self._put(key, session)
                else:
                    await session.close()

    async def _put(self, key: Key, session: NamespaceSession) -> None:
        self._idle.append((time.monotonic(), key, session))
        self._sweeping = self._sweeping or asyncio.create_task(self._sweep())
        if len(self._idle) > self._width:
            await self.shrink()

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        await self._young.acquire()
        timer = asyncio.get_running_loop().call_later(_YOUNG_SECONDS, self._young.release)
        try:
            yield
        finally:
            if not timer.cancelled() and timer.when() > asyncio.get_running_loop().time():
                timer.cancel()
                self._young.release()

    async def _take(self, key: Key) -> NamespaceSession | None:
        for index in reversed(range(len(self._idle))):
            if self._idle[index][1] == key:
                session = self._idle.pop(index)[2]
                if session.alive:
                    return session
                await session.close()
                return None
        return None

    async def shrink(self) -> bool:
        """Close the session that has been idle the longest. False if none is idle."""
        if not self._idle:
            return False
        await self._idle.pop(0)[2].close()
        return True

    async def _sweep(self) -> None:
        try:
            while self._idle:
                await asyncio.sleep(max(0.0, self._idle[0][0] + _IDLE_SECONDS - time.monotonic()))
                while self._idle and self._idle[0][0] + _IDLE_SECONDS <= time.monotonic():
                    await self.shrink()
        finally:
            self._sweeping = None

    async def close(self) -> None:
        """Keep no more sessions. The idle ones are closed with the sandbox they belong to."""
        self._closed = True
        self._idle.clear()
        sweeping = self._sweeping
        if sweeping is not None:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)

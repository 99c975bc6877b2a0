"""Which calls may run now: as many as measurement shows to be worth it; a bounded number of others waits.

How many calls a machine can run at once depends on what they do: programs that compute gain nothing beyond
the cores, calls that wait for a network gain by hundreds. So the limit is found by trying: see
:class:`Capacity`.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agentrl.errors import ServerBusy

WINDOW_SECONDS = 0.5
"""How long a rate is measured, at least, before the limit is looked at again."""

LONGEST_RETRY = 60.0


class Capacity:
    """A limit on concurrency that climbs to where the rate of answers stops growing; told what was measured.

    A raised limit is kept only if the rate rose by at least ``worth`` of what the raise would give to calls
    that merely wait; a lowered one if the rate did not fall. Between tries it rests, so that most calls run
    at a limit that has proved itself.

    Args:
        start: the first limit.
        most: the highest limit; the lowest is 1.
        worth: share of a proportional gain that makes a raise worth its latency.
        rest: windows between tries.
    """

    def __init__(self, start: int, most: int, *, worth: float = 0.3, rest: int = 6) -> None:
        self.limit = max(1, min(start, most))
        self._most, self._worth, self._rest = most, worth, rest
        self._before: tuple[int, float] | None = None  # limit and rate that a try is compared with
        self._resting = 0
        self._next_is_up = True

    def measured(self, rate: float, *, saturated: bool) -> None:
        """A window has ended.

        Args:
            rate: calls answered per second in it.
            saturated: whether calls waited for a place. Otherwise nothing is learnt.
        """
        if not saturated or rate <= 0:
            return
        if self._before is not None:
            self._conclude(rate)
        elif self._resting > 0:
            self._resting -= 1
        else:
            self._try(rate)

    def _try(self, rate: float) -> None:
        up, down = math.ceil(self.limit * 1.5), int(self.limit * 0.75)
        new = min(up, self._most) if self._next_is_up else max(1, down)
        if new == self.limit:
            self._next_is_up = not self._next_is_up
            return
        self._before, self.limit = (self.limit, rate), new

    def _conclude(self, rate: float) -> None:
        assert self._before is not None
        old_limit, old_rate = self._before
        self._before = None
        gain = rate / old_rate - 1
        if self.limit > old_limit:
            worthwhile = gain >= self._worth * (self.limit / old_limit - 1)
        else:
            worthwhile = gain >= -0.05
        if not worthwhile:
            self.limit = old_limit
            self._next_is_up = not self._next_is_up
            self._resting = self._rest


def available_memory_mb() -> float:
    """Memory that can be had without swapping, in MiB; infinite where the machine does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024
    except OSError:
        return math.inf
    return math.inf


class Admission:
    """Gives calls a place to run in, first come first served.

    A session's calls come one at a time (its order sees to that), so no session can crowd out the others.

    Args:
        most: calls that may ever run at once.
        queue: calls that may wait; beyond it they are refused.
        queue_seconds: how long a call may wait.
        memory_floor_mb: below so much available memory, in MiB, no further call begins.
        clock: seconds from any start.
        memory: available memory in MiB.
    """

    def __init__(
        self,
        *,
        most: int = 512,
        queue: int = 4096,
        queue_seconds: float = 60.0,
        memory_floor_mb: float = 256.0,
        clock: Callable[[], float] | None = None,
        memory: Callable[[], float] = available_memory_mb,
    ) -> None:
        self.capacity = Capacity(max(4, 2 * (os.cpu_count() or 1)), most)
        self.running = 0
        self.rate = 0.0
        self._queue_limit, self._queue_seconds = queue, queue_seconds
        self._memory_floor, self._memory = memory_floor_mb, memory
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._window_began = self._memory_seen = -math.inf
        self._answered = 0
        self._saturated = False
        self._enough_memory = True

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._waiting)

    @asynccontextmanager
    async def place(self, seconds: float | None = None) -> AsyncIterator[None]:
        """Wait for a place and hold it.

        Args:
            seconds: the longest wait, if that is shorter than any call's.

        Raises:
            ServerBusy: the queue is full, the wait was too long, or the machine is out of memory.
        """
        await self._enter(self._queue_seconds if seconds is None else min(seconds, self._queue_seconds))
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, seconds: float) -> None:
        self._look()
        if not self._enough_memory:
            raise ServerBusy("The server's machine is short of memory; nothing was run.", self.retry_after())
        if self.running < self.capacity.limit and not self._waiting:
            self.running += 1
            return
        self._saturated = True
        if len(self._waiting) >= self._queue_limit:
            raise ServerBusy(
                f"{len(self._waiting)} calls wait already, which is all the queue takes; nothing was run.",
                self.retry_after(),
                queue_full=True,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            # asyncio.wait_for of Python 3.11 swallows a cancellation that comes as the place is given.
            async with asyncio.timeout(seconds):
                await turn
        except (TimeoutError, asyncio.CancelledError) as problem:
            self._give_up(turn)
            if isinstance(problem, asyncio.CancelledError):
                raise
            raise ServerBusy(
                f"No place became free in {seconds:g} s; nothing was run.",
                self.retry_after(),
                queue_full=True,
            ) from None

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            self._leave()  # the place had been given to us at that moment
        elif turn in self._waiting:
            self._waiting.remove(turn)

    def _leave(self) -> None:
        self.running -= 1
        self._answered += 1
        self._look()
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.running < self.capacity.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.running += 1
                turn.set_result(None)

    def _look(self) -> None:
        """At the end of a window: what was the rate, and what follows from it?"""
        now = self._clock()
        if now - self._memory_seen >= WINDOW_SECONDS:
            self._memory_seen, self._enough_memory = now, self._memory() >= self._memory_floor
        elapsed = now - self._window_began
        # Calls that take long need a longer window: without an answer for each place it measures nothing.
        if elapsed < WINDOW_SECONDS or (self._waiting and self._answered < self.capacity.limit):
            return
        if self._waiting or elapsed < 4 * WINDOW_SECONDS:  # a longer one without a queue had a pause in it
            self.rate = self._answered / elapsed
            self.capacity.measured(self.rate, saturated=self._saturated)
        self._window_began, self._answered, self._saturated = now, 0, bool(self._waiting)
        self._admit()

    def retry_after(self) -> float:
        """Seconds until the calls that wait now will have been answered, at the measured rate."""
        if self.rate <= 0:
            return 1.0
        return min(LONGEST_RETRY, max(1.0, (len(self._waiting) + self.running) / self.rate))

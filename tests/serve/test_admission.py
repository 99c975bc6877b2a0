"""Admission, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

import pytest

from agentrl.errors import ServerBusy
from agentrl.serve.admission import Admission


class Machine:
    """Callers that call again and again; ``lasts`` tells how long a call takes beside so many others."""

    def __init__(self, lasts: Callable[[int], float], callers: int) -> None:
        self.now = 0.0
        self.admission = Admission(most=512, clock=lambda: self.now, memory=lambda: 1e6)
        self._lasts, self._callers = lasts, callers
        self._running: list[tuple[float, int, asyncio.Event]] = []
        self._count = 0

    async def _caller(self) -> None:
        while True:
            async with self.admission.place():
                self._count += 1
                done = asyncio.Event()
                ends = self.now + self._lasts(self.admission.running)
                heapq.heappush(self._running, (ends, self._count, done))
                await done.wait()

    async def until(self, seconds: float) -> list[int]:
        """The limits in force, after each answer."""
        callers = [asyncio.ensure_future(self._caller()) for _ in range(self._callers)]
        limits = []
        await asyncio.sleep(0)
        while self.now < seconds:
            self.now, _, done = heapq.heappop(self._running)
            done.set()
            for _ in range(5):
                await asyncio.sleep(0)
            limits.append(self.admission.capacity.limit)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        assert self.admission.running == self.admission.waiting == 0
        return limits


@pytest.mark.parametrize("seconds", [0.1, 10.0])
async def test_calls_that_wait_reach_hundreds_at_once_however_long_they_take(seconds: float) -> None:
    limits = await Machine(lambda _: seconds, callers=400).until(15 * max(1.0, 2.5 * seconds))
    assert max(limits) >= 200


async def test_calls_that_compute_stay_near_the_cores() -> None:
    """Two cores: a call takes longer in proportion to what runs beside it."""
    limits = await Machine(lambda running: 0.02 * max(1.0, running / 2), callers=100).until(60)
    settled = sorted(limits[len(limits) // 2 :])
    assert settled[len(settled) // 2] <= 24


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    admission = Admission(most=1, queue=1, memory=lambda: 1e6)
    async with admission.place():
        waits = asyncio.ensure_future(admission._enter(60))
        while not admission.waiting:
            await asyncio.sleep(0)
        with pytest.raises(ServerBusy) as busy:
            async with admission.place():
                pass
        assert busy.value.queue_full and busy.value.retry_after >= 1
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
    assert admission.running == admission.waiting == 0


async def test_short_of_memory_nothing_begins_until_there_is_some() -> None:
    now, free = 0.0, 0.0
    admission = Admission(clock=lambda: now, memory=lambda: free, memory_floor_mb=100)
    with pytest.raises(ServerBusy, match="memory") as busy:
        async with admission.place():
            pass
    assert not busy.value.queue_full
    now, free = 1.0, 200.0
    async with admission.place():
        assert admission.running == 1

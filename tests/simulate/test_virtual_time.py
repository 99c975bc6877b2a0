"""The loop whose clock jumps: order, limits, deadlocks."""

from __future__ import annotations

import asyncio

import pytest

from agentrl.rollout.waiting import OutOfTime, within
from agentrl.simulate import Deadlock, run


def test_a_year_passes_in_order_and_at_once() -> None:
    year, seen = 365 * 86_400.0, []

    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append(asyncio.get_running_loop().time())

    async def main() -> float:
        await asyncio.gather(wait(year), wait(1), wait(0.001), wait(year / 2))
        return asyncio.get_running_loop().time()

    assert run(main()) == year
    assert seen == pytest.approx([0.001, 1, year / 2, year])


def test_limits_count_in_virtual_time() -> None:
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        with pytest.raises(OutOfTime):
            await within(asyncio.sleep(500), 300)
        first = loop.time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(40):
                await asyncio.Event().wait()
        return first, loop.time()

    assert run(main()) == (300, 340)


def test_a_deadlock_is_told_with_the_tasks_that_wait() -> None:
    cleaned = []

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    async def main() -> None:
        await asyncio.sleep(7)
        await asyncio.gather(asyncio.create_task(stuck(), name="the one that waits"))

    with pytest.raises(Deadlock, match=r"7\.0 s.*the one that waits"):
        run(main())
    assert cleaned == [True]


def test_threads_are_refused() -> None:
    with pytest.raises(RuntimeError, match="virtual time"):
        run(asyncio.to_thread(print))

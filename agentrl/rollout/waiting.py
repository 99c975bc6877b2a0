"""Waiting with limits: what an episode awaits may hang, raise anything, or ignore being cancelled."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
"""How long a cancelled coroutine may take to clean up before it is left behind."""


class OutOfTime(Exception):
    """A limit of :func:`within` ran out. No subclass of TimeoutError, which the awaited code may raise."""


class StrayExit(Exception):
    """The awaited code tried to leave: it raised SystemExit or the like, or cancelled its own task."""


async def within(work: Coroutine[Any, Any, T], seconds: float, *, grace: float = GRACE_SECONDS) -> T:
    """Await ``work`` for at most ``seconds``; it is cancelled when they run out or when we are.

    A coroutine that ignores its cancellation for ``grace`` seconds is left behind and logged: the
    episode goes on without it.

    Raises:
        OutOfTime: the seconds ran out.
        StrayExit: the coroutine raised SystemExit, KeyboardInterrupt or CancelledError by itself.
    """
    loop = asyncio.get_running_loop()
    task, over = loop.create_task(_contained(work)), loop.create_future()
    # asyncio.wait does the same, in twice the time; it happens several times a turn.
    task.add_done_callback(lambda _: _release(over))
    limit = None if seconds == math.inf else loop.call_later(max(0.0, seconds), _release, over)
    try:
        await over
    except asyncio.CancelledError:
        await _stop(task, grace)
        raise
    finally:
        if limit is not None:
            limit.cancel()
    if task.done():
        return _result(task)
    await _stop(task, grace)
    raise OutOfTime


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work`` even if we are cancelled meanwhile; the cancellation is raised once it is done."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as request:
            cancelled = request
    if cancelled is not None:
        _forget(task)
        raise cancelled
    return task.result()


async def all_of(works: Sequence[Coroutine[Any, Any, T]], rank: Callable[[BaseException], int]) -> list[T]:
    """The results of several coroutines run together, in their order.

    The first to raise cancels the others, which are awaited; of several exceptions the one with the
    lowest ``rank`` is raised.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await to_the_end(_settled(tasks))
    problems = [p for task in tasks if not task.cancelled() and (p := task.exception()) is not None]
    if problems:
        raise min(problems, key=rank)
    return [task.result() for task in tasks]


async def _contained(work: Coroutine[Any, Any, T]) -> T:
    """SystemExit and KeyboardInterrupt inside a task would end the whole event loop."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as problem:
        raise StrayExit(f"{type(problem).__name__}: {problem}") from problem


def _release(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


async def _stop(task: asyncio.Task[Any], grace: float) -> None:
    task.cancel()
    await to_the_end(_settled([task], grace))
    if not task.done():
        logger.warning("%s ignored its cancellation for %g s and was left behind.", task.get_coro(), grace)
    _forget(task)


async def _settled(tasks: Sequence[asyncio.Task[Any]], seconds: float | None = None) -> None:
    await asyncio.wait(tasks, timeout=seconds)


def _result(task: asyncio.Task[T]) -> T:
    if task.cancelled():
        raise StrayExit("CancelledError")
    return task.result()


def _forget(task: asyncio.Task[Any]) -> None:
    """Take note of an exception nobody will ask for, so that asyncio does not complain about it."""
    task.add_done_callback(lambda done: done.cancelled() or done.exception())


async def finish_quietly(work: Coroutine[Any, Any, object], seconds: float, what: str) -> None:
    """Await clean-up for at most ``seconds``; whatever goes wrong is logged, never raised."""
    try:
        await within(work, seconds)
    except OutOfTime:
        logger.warning("%s took longer than %g s and was given up.", what, seconds)
    except Exception as problem:
        logger.warning("%s failed: %s: %s", what, type(problem).__name__, problem)

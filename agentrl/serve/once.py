"""Work that is done at most once, however often it is asked for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from agentrl.errors import SandboxError, ServerBusy

T = TypeVar("T")


class _Work(Generic[T]):
    """Work under way or done, and how many callers wait for it."""

    def __init__(self, task: asyncio.Task[T]) -> None:
        self.task = task
        self.callers = 0


class Once(Generic[T]):
    """Remembers the latest answers by the ids of the calls.

    Args:
        answers: finished ones that are remembered, at most; what runs is never forgotten.
        grace_seconds: how long work goes on after its last caller went away, for a retry to find.
    """

    def __init__(self, answers: int, grace_seconds: float) -> None:
        self._answers, self._grace = answers, grace_seconds
        self._works: dict[object, _Work[T]] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()  # the oldest first
        self._background: set[asyncio.Task[None]] = set()

    def __contains__(self, name: str) -> bool:
        """Whether such work was begun and is remembered."""
        return name in self._works

    @property
    def running(self) -> list[asyncio.Task[T]]:
        """What is under way."""
        return [work.task for work in self._works.values() if not work.task.done()]

    async def do(self, name: str, perform: Callable[[], Coroutine[Any, Any, T]], *, keep: bool = True) -> T:
        """Do the work called ``name``, or wait for that which was begun for the same name. Without ``keep``
        an answer that reached its caller is forgotten: for large ones that can be had again. Nobody can come
        back for work without a name: it is stopped as soon as its caller goes away.

        Raises:
            SandboxError: the work was stopped; and whatever it raises.
        """
        work = self._works.get(name) or self._begin(name, perform)
        work.callers += 1
        try:
            answer = await asyncio.shield(work.task)
        except asyncio.CancelledError:
            if work.task.cancelled():
                raise SandboxError("the call was stopped, since nobody waited for it any more") from None
            task = asyncio.ensure_future(self._stop_later(work, self._grace if name else 0.0))
            self._background.add(task)
            task.add_done_callback(self._background.discard)
            raise
        finally:
            work.callers -= 1
        if not keep:
            self._forget(name)
        return answer

    def _begin(self, name: str, perform: Callable[[], Coroutine[Any, Any, T]]) -> _Work[T]:
        key: object = name or object()
        work = self._works[key] = _Work(asyncio.ensure_future(perform()))
        work.task.add_done_callback(lambda task: self._ended(key, task))
        return work

    def _ended(self, key: object, task: asyncio.Task[T]) -> None:
        # Looking at the failure also tells asyncio that it is no surprise if all callers went away.
        problem = None if task.cancelled() else task.exception()
        if not isinstance(key, str) or isinstance(problem, ServerBusy):  # nothing was run: a retry may
            self._works.pop(key, None)
            return
        self._finished[key] = None
        while len(self._finished) > self._answers:
            self._forget(next(iter(self._finished)))

    def _forget(self, name: str) -> None:
        self._works.pop(name, None)
        self._finished.pop(name, None)

    async def _stop_later(self, work: _Work[T], seconds: float) -> None:
        """The caller went away. Stop the work, unless it comes back soon."""
        await asyncio.wait({work.task}, timeout=seconds)
        if work.callers == 0 and not work.task.done():
            work.task.cancel()
            await asyncio.wait({work.task})

    async def stop(self, seconds: float | None = None) -> None:
        """Stop what runs, and wait until it has ended: at most so long; ``None``: as long as it takes."""
        running = self.running
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=seconds)

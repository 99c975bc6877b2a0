"""ONI: rewards from a judge that nobody waits for."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from agentrl.errors import DefinitionError

Judge = Callable[[str], Awaitable[float | None]]
"""How interesting an observation is; ``None`` for no verdict."""


@dataclass
class Counts:
    """What became of what was looked up."""

    labelled: int = 0
    missing: int = 0
    dropped: int = 0
    failed: int = 0


class Intrinsic:
    """Labels of observations, from a judge that works beside the rollout.

    A text without a label yet is worth 0 and waits for the judge, once however often it is seen. When
    the queue is full it is dropped, and may be asked for again. ::

        async with Intrinsic(judge) as curiosity:
            reward = outcome + 0.1 * curiosity.label(observation)

    Args:
        judge: asked for each text once. What it raises counts as no verdict.
        queue: texts that may wait.
        cache: labels kept; the least recently used go first.
        workers: questions at once.

    Raises:
        DefinitionError: a limit is below 1.
    """

    def __init__(self, judge: Judge, *, queue: int = 1024, cache: int = 100_000, workers: int = 4) -> None:
        if min(queue, cache, workers) < 1:
            raise DefinitionError(f"queue={queue}, cache={cache} and workers={workers} must be at least 1.")
        self._judge, self._cache, self._workers = judge, cache, workers
        self._queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue(queue)
        self._labels: OrderedDict[str, float] = OrderedDict()
        self._waiting: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.counts = Counts()

    def label(self, text: str) -> float:
        """The judge's label, or 0 while there is none. Never waits."""
        key = hashlib.sha256(text.encode(errors="replace")).hexdigest()
        if key in self._labels:
            self._labels.move_to_end(key)
            self.counts.labelled += 1
            return self._labels[key]
        self.counts.missing += 1
        if key not in self._waiting:
            if self._queue.full():
                self.counts.dropped += 1
            else:
                self._waiting.add(key)
                self._queue.put_nowait((key, text))
        return 0.0

    async def drained(self) -> None:
        """Wait until all that waits has been judged."""
        await self._queue.join()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            key, text = await self._queue.get()
            try:
                verdict = await self._judge(text)
            except Exception:  # whatever a judge raises: no label, and the rollout goes on
                verdict = None
            self._keep(key, verdict)
            self._queue.task_done()

    def _keep(self, key: str, verdict: float | None) -> None:
        self._waiting.discard(key)
        if verdict is None:
            self.counts.failed += 1
            return
        self._labels[key] = float(verdict)
        if len(self._labels) > self._cache:
            self._labels.popitem(last=False)

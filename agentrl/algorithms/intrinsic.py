"""ONI: rewards from a judge that nobody waits for."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentrl.errors import ConfigError, DefinitionError

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

    A text without a label yet is worth nothing and waits for the judge, once however often it is seen. When
    too many wait it is dropped, and may be asked for again. ::

        reward = outcome + 0.1 * (curiosity.label(observation) or 0.0)

    Source: ONI, arXiv:2410.23022.

    Args:
        judge: asked for each text once. What it raises counts as no verdict, but for a mistake in the
            settings, which the next look-up raises.
        queue: texts that may wait.
        cache: labels kept; the least recently used go first.
        workers: questions at once.

    Raises:
        DefinitionError: a limit is below 1.
    """

    def __init__(self, judge: Judge, *, queue: int = 1024, cache: int = 100_000, workers: int = 4) -> None:
        if min(queue, cache, workers) < 1:
            raise DefinitionError(f"queue={queue}, cache={cache} and workers={workers} must be at least 1.")
        self._judge, self._most, self._cache, self._workers = judge, queue, cache, workers
        self._queue: OrderedDict[str, str] = OrderedDict()
        self._labels: OrderedDict[str, float] = OrderedDict()
        self._open: dict[str, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._mistake: ConfigError | None = None
        self.counts = Counts()

    def label(self, text: str) -> float | None:
        """The judge's label, or ``None`` while there is none. Never waits; called in a running loop.

        Raises:
            ConfigError: the judge cannot be asked at all.
        """
        if self._mistake is not None:
            raise self._mistake
        key = _key(text)
        if key in self._labels:
            self._labels.move_to_end(key)
            self.counts.labelled += 1
            return self._labels[key]
        self.counts.missing += 1
        if key not in self._open:
            if len(self._queue) >= self._most:
                self.counts.dropped += 1
            else:
                self._queue[key], self._open[key] = text, asyncio.Event()
                self._hire()
        return None

    async def label_within(self, text: str, seconds: float) -> float | None:
        """The same, for which a caller who can afford it waits.

        Raises:
            ConfigError: the judge cannot be asked at all.
        """
        found = self.label(text)
        asked = self._open.get(_key(text))
        if found is not None or asked is None or not seconds:
            return found
        try:
            async with asyncio.timeout(seconds):
                await asked.wait()
        except TimeoutError:
            return None
        return self._labels.get(_key(text))

    async def drained(self) -> None:
        """Wait until all that waits has been judged."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _hire(self) -> None:
        if len(self._tasks) < self._workers:
            task = asyncio.get_running_loop().create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        """Ask until nothing waits."""
        while self._queue:
            key, text = self._queue.popitem(last=False)
            try:
                verdict = await self._judge(text)
            except ConfigError as problem:
                self._mistake, verdict = problem, None
            except Exception:  # whatever else a judge raises: no label, and the rollout goes on
                verdict = None
            self._keep(key, verdict)
            self._open.pop(key).set()
        # Now, and not once the loop comes round to it: what is asked until then would wait for nobody.
        self._tasks.discard(asyncio.current_task())

    def _keep(self, key: str, verdict: float | None) -> None:
        if verdict is None:
            self.counts.failed += 1
            return
        self._labels[key] = float(verdict)
        if len(self._labels) > self._cache:
            self._labels.popitem(last=False)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()

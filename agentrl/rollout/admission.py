"""How many episodes may run at once: as many as engine, tools and memory take, measured while they run."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agentrl.config import Rollout
from agentrl.trajectory import Trajectory

logger = logging.getLogger(__name__)

MEBIBYTE = 2**20
LAST_EPISODES = 16
"""Over so many that ended last, about, it is averaged what episodes wait for."""
MANY = 1_000_000
"""More places than anybody takes."""


class Gauge(Protocol):
    """A measured capacity that bounds how many episodes may run.

    Attributes:
        name: what admission is said to be held by.
    """

    name: str

    def places(self, running: int) -> int:
        """How many may run at once, by what is measured now with ``running`` of them under way.

        A gauge that gives 0 while none runs must call :meth:`Admission.recheck` when that changes.
        """


class LoadGauge:
    """Follows the load of something that episodes share: an engine, a tool server.

    The load that so many running episodes make tells how many make the wanted one. It grows at most twofold
    between two looks, since a load is measured later than it is caused.

    Args:
        name: for example ``engine`` or ``tools``.
        load: the share of its capacity in use, above 1 where requests queue; asked at every admission, so
            it must answer at once. For vLLM: KV cache in use, and more by the share of requests that wait.
        target: the load to be kept.
        first: episodes that may run before there is a load to go by.
    """

    def __init__(
        self, name: str, load: Callable[[], float], *, target: float = 0.95, first: int = 16
    ) -> None:
        self.name = name
        self._load, self._target, self._first = load, target, first

    def places(self, running: int) -> int:
        """``running · target / load``, at least 1: one episode may always try."""
        growth = max(self._first, 2 * running)
        load = self._load()
        if load <= 0:
            return growth
        return max(1, min(growth, int(running * self._target / load)))


class MemoryGauge:
    """Keeps a reserve of this machine's memory free, by what an episode has been seen to take.

    Args:
        reserve: bytes that are not to be used.
        available: bytes that can still be had.
        used: bytes this process has.
        least: bytes that an episode is taken to need at least, whatever is measured.
    """

    name = "memory"

    def __init__(
        self,
        reserve: int = 1024 * MEBIBYTE,
        *,
        available: Callable[[], int] | None = None,
        used: Callable[[], int] | None = None,
        least: int = MEBIBYTE // 4,
    ) -> None:
        self._reserve, self._least = reserve, least
        self._available, self._used = available or available_memory, used or resident_memory
        self._empty = self._used()

    def places(self, running: int) -> int:
        """Those under way and as many more as fit beside the reserve; at least 1."""
        each = max(self._least, (self._used() - self._empty) // max(1, running))
        return max(1, running + (self._available() - self._reserve) // each)


class Asking:
    """The episodes that have asked for something which they share, and wait for the answer.

    Attributes:
        count: how many they are now, those in queues elsewhere included.
        share: of an episode's time, how much it waits so, by the episodes that ended last; 1 before any did.
    """

    def __init__(self) -> None:
        self.count, self.share = 0, 1.0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1

    def ended(self, waited: float, seconds: float) -> None:
        """An episode of so many seconds has ended, ``waited`` of which it waited."""
        if seconds > 0:
            self.share += (min(1.0, waited / seconds) - self.share) / LAST_EPISODES


@dataclass(frozen=True)
class Load:
    """What the episodes of a process wait for. Runners may share one.

    Args:
        engine: for turns.
        tools: for the answers to calls.
    """

    engine: Asking = field(default_factory=Asking)
    tools: Asking = field(default_factory=Asking)

    def ended(self, episode: Trajectory) -> None:
        """Learn from an episode that has ended."""
        turns = episode.turns
        self.engine.ended(sum(turn.generate_seconds for turn in turns), episode.seconds)
        self.tools.ended(sum(turn.tool_seconds for turn in turns), episode.seconds)


class AskingGauge:
    """Has as many episodes run as keep a wanted number waiting for an engine or a tool server.

    An episode that waits for it a tenth of its time lets ten times as many run. Where it slows down, episodes
    wait more of their time and fewer run; where it stands still, none begins once so many wait.

    Args:
        name: for example ``engine`` or ``tools``.
        asking: those that wait.
        most: how many are to.
    """

    def __init__(self, name: str, asking: Asking, most: int) -> None:
        self.name = name
        self._asking, self._most = asking, most

    def places(self, running: int) -> int:
        """``most / share``, or those under way while as many wait; at least 1."""
        if self._asking.count >= self._most:
            return running
        return max(1, min(MANY, int(self._most / max(self._asking.share, 1 / MANY))))


class Admission:
    """Gives out places to episodes, first come, first served.

    Args:
        most: places, whatever the gauges say; at least 1.
        gauges: each of which must have room.
        check_seconds: how often gauges are looked at while they keep somebody waiting, beside every time
            that a place becomes free.

    Attributes:
        running: places taken.
        held: how often a look found no room, by the gauge that had the least.

    Raises:
        ValueError: ``most`` is below 1.
    """

    def __init__(self, most: int, gauges: Sequence[Gauge] = (), *, check_seconds: float = 1.0) -> None:
        if most < 1:
            raise ValueError(f"concurrency={most}: at least one episode must be allowed to run.")
        self.most, self.running = most, 0
        self.held: Counter[str] = Counter()
        self._gauges, self._check_seconds = tuple(gauges), check_seconds
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, limits: Rollout, load: Load) -> Admission:
        """What a rollout's settings ask for.

        Args:
            limits: ``concurrency``, ``engine_episodes``, ``tool_episodes`` and ``free_memory_mb`` are used.
            load: of all the episodes that are given places.
        """
        gauges: list[Gauge] = [MemoryGauge(limits.free_memory_mb * MEBIBYTE)]
        if limits.engine_episodes is not None:
            gauges.append(AskingGauge("engine", load.engine, limits.engine_episodes))
        if limits.tool_episodes is not None:
            gauges.append(AskingGauge("tools", load.tools, limits.tool_episodes))
        return cls(limits.concurrency, gauges)

    @property
    def waiting(self) -> int:
        """Callers without a place yet."""
        return len(self._waiting)

    async def enter(self) -> None:
        """Take a place, waiting for one; give it back by :meth:`leave`."""
        if not self._waiting and self._has_room():
            self.running += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._watch()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it was given at the very moment
                self.leave()
            elif place in self._waiting:
                self._waiting.remove(place)
            raise

    def leave(self) -> None:
        """Give a place back."""
        self.running -= 1
        self.recheck()

    def recheck(self) -> None:
        """Look again: something has changed that a gauge goes by."""
        while self._waiting and self._has_room():
            place = self._waiting.popleft()
            if not place.done():
                self.running += 1
                place.set_result(None)
        self._watch()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place for the length of a block."""
        await self.enter()
        try:
            yield
        finally:
            self.leave()

    def _has_room(self) -> bool:
        if self.running >= self.most:
            return False
        for gauge in self._gauges:
            if self.running >= gauge.places(self.running):
                if not self.held[gauge.name]:
                    logger.info("%s: no further episode begins beside %d for now", gauge.name, self.running)
                self.held[gauge.name] += 1
                return False
        return True

    def _watch(self) -> None:
        """Look again in a while, if it is a gauge that keeps somebody waiting."""
        if self._waiting and self._timer is None and self._gauges and self.running < self.most:
            self._timer = asyncio.get_running_loop().call_later(self._check_seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        self.recheck()


def resident_memory() -> int:
    """Bytes of this process in memory; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * 4096


def available_memory() -> int:
    """Bytes that can be had without swapping, within the cgroup's limit if there is one."""
    found = [2**62]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    except OSError:
        pass
    for most, now in [
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ]:
        folder = Path("/sys/fs/cgroup")
        try:
            found.append(int((folder / most).read_text()) - int((folder / now).read_text()))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return min(found)

"""One address for many servers: a front that keeps workers alive, names them, and passes calls on to them."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

from agentrl.errors import AgentRLError, ServerBusy
from agentrl.serve.app import make_app
from agentrl.serve.client import ToolClient
from agentrl.serve.host import CallAnswer, CallRequest
from agentrl.serve.metrics import FrontMetrics, merged
from agentrl.serve.server import (
    ServeSettings,
    check_address,
    ending_signals,
    listening,
    protocol_routes,
    sweeping,
)
from agentrl.task import Task

logger = logging.getLogger(__name__)

FIRST_WAIT = 0.2
"""Seconds before a worker that ended is replaced; doubles with each that ends at once."""
LONGEST_WAIT = 30.0
STEADY_SECONDS = 60.0
"""A worker that lived so long did not end at once."""
CLOSE_SECONDS = 30.0
"""What a worker gets to end its sessions, after its calls have had their time."""
LONGEST_CALL = 600.0
"""Seconds that a call may take which names no time of its own, as for any client."""
PROBE_SECONDS = 10.0
"""Between two questions to a worker whether it is healthy, and for its answer."""
MOST_FAILED_PROBES = 3
"""In a row; then a worker counts as hung and is replaced."""
PAGE_SECONDS = 5.0
"""For a worker to tell what it counts."""


class Worker(ABC):
    """A server that the front started.

    Args:
        url: where it takes calls.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    async def ended(self) -> str:
        """Wait until it is no more; why that is so."""

    @abstractmethod
    async def end(self, seconds: float) -> None:
        """Let its calls end and close its sessions, in so many seconds; then leave nothing of it."""


Start = Callable[[], Awaitable[Worker]]
"""Starts a worker; cancelled or failed, it leaves nothing behind.

Raises:
    AgentRLError: there is none, and why.
"""


class Fleet:
    """So many workers, each replaced when it ends.

    Args:
        start: starts one.
        count: how many there are.
        metrics: counts them.
        changed: told the addresses of those alive, after every change.
        probe_seconds: how often each is asked whether it is healthy, and how long it may take to say so.
    """

    def __init__(
        self,
        start: Start,
        count: int,
        metrics: FrontMetrics,
        changed: Callable[[list[str]], Awaitable[None]] | None = None,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        self._start, self._count, self._metrics, self._changed = start, count, metrics, changed
        self._probe_seconds = probe_seconds
        self._workers: set[Worker] = set()
        self._keepers: list[asyncio.Task[None]] = []
        metrics.watch_workers(lambda: len(self._workers))

    def urls(self) -> list[str]:
        """Where the live workers are."""
        return sorted(worker.url for worker in self._workers)

    async def begin(self) -> None:
        """Start all workers.

        Raises:
            AgentRLError: one of them could not be started.
        """
        ups = [asyncio.get_running_loop().create_future() for _ in range(self._count)]
        self._keepers = [asyncio.ensure_future(self._keep(up)) for up in ups]
        problems = await asyncio.gather(*ups, return_exceptions=True)
        for problem in problems:
            if problem is not None:
                raise problem

    async def _keep(self, up: asyncio.Future[None]) -> None:
        """Keep one worker alive; ``up`` learns how its first start went."""
        wait = FIRST_WAIT
        while True:
            began = time.monotonic()
            try:
                worker = await self._start()
            except Exception as problem:  # whatever it is, whoever waits for the start has to hear of it
                if not up.done():
                    up.set_exception(problem)
                    return
                logger.warning(
                    "a worker could not be started: %s",
                    problem,
                    exc_info=not isinstance(problem, AgentRLError),
                )
            else:
                await self._serve(worker, up)
            if time.monotonic() - began > STEADY_SECONDS:
                wait = FIRST_WAIT
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    async def _serve(self, worker: Worker, up: asyncio.Future[None]) -> None:
        """Offer a worker for as long as it lives."""
        self._workers.add(worker)
        await self._tell()
        if not up.done():
            up.set_result(None)
        why = await self._over(worker)
        self._workers.discard(worker)
        self._metrics.replaced()
        logger.warning("worker %s has ended and is replaced: %s", worker.url, why)
        await worker.end(0.0)
        await self._tell()

    async def _over(self, worker: Worker) -> str:
        """Wait until a worker is no more, or hangs; why it is to be replaced."""
        waits = {asyncio.ensure_future(worker.ended()), asyncio.ensure_future(self._hung(worker.url))}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _hung(self, url: str) -> str:
        failed = 0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(self._probe_seconds)) as http:
            while failed < MOST_FAILED_PROBES:
                await asyncio.sleep(self._probe_seconds)
                try:
                    async with http.get(f"{url}/health") as answer:
                        failed = 0 if answer.status == 200 else failed + 1
                except (aiohttp.ClientError, TimeoutError):
                    failed += 1
        return f"it did not say that it is healthy, {MOST_FAILED_PROBES} times in a row"

    async def _tell(self) -> None:
        if self._changed is not None:
            await self._changed(self.urls())

    async def end(self, seconds: float) -> None:
        """Replace none any more; let their calls have so many seconds, and leave nothing of them."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        workers = list(self._workers)
        await asyncio.gather(*(worker.end(seconds + CLOSE_SECONDS) for worker in workers))
        self._workers.clear()


class FrontHost(ToolClient):
    """Answers calls by asking the workers; forgets sessions as late as they do.

    Args:
        fleet: the workers.
        settings: how they are run.
    """

    def __init__(self, fleet: Fleet, settings: ServeSettings) -> None:
        # A caller is told at once that a worker is busy: patience is theirs. Tools may have longer limits of
        # their own than the settings' one.
        longest = max(LONGEST_CALL, settings.call_seconds)
        super().__init__(fleet.urls, token=settings.token, patience=0.0, call_seconds=longest)
        self._fleet, self._idle_seconds = fleet, settings.limits.idle_seconds
        self._used: dict[str, float] = {}
        self._running: dict[str, int] = {}
        self.draining = False

    def check_ready(self) -> None:
        if self.draining:
            raise ServerBusy("The server is ending and takes no more calls; nothing was run.", 5.0)
        if not self._fleet.urls():
            raise ServerBusy("No worker is up at the moment; nothing was run.", 1.0)

    async def open(self, session: str, *, task: Task | None = None, tools: Sequence[str] = ()) -> None:
        self.check_ready()
        await super().open(session, task=task, tools=tools)
        self._used[session] = time.monotonic()

    async def call(self, request: CallRequest) -> CallAnswer:
        self.check_ready()
        name = request.session
        self._running[name] = self._running.get(name, 0) + 1
        try:
            return await super().call(request)
        finally:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]
            if self.home(name) is not None:
                self._used[name] = time.monotonic()

    async def pages(self) -> dict[str, bytes]:
        """What each worker counts, in Prometheus's text form; without those that do not tell."""
        urls = self._fleet.urls()
        pages = await asyncio.gather(
            *(self._send("GET", url, "/metrics", b"", PAGE_SECONDS) for url in urls), return_exceptions=True
        )
        return {url: page for url, page in zip(urls, pages, strict=True) if isinstance(page, bytes)}

    async def end(self, session: str) -> None:
        await super().end(session)
        self._used.pop(session, None)

    async def sweep(self) -> int:
        """End the sessions that were idle for too long, and forget the lost ones; how many those were."""
        now, over = time.monotonic(), []
        for name, used in self._used.items():
            idle = name not in self._running and now - used >= self._idle_seconds
            if idle or self.home(name) is None:
                over.append(name)
        await asyncio.gather(*(self.end(name) for name in over))
        return len(over)

    async def close(self) -> None:
        if self.draining:  # the workers have ended them
            for name in list(self._used):
                self._lose(name, "the server has ended")
        await super().close()


async def serve_front(
    settings: ServeSettings,
    start: Start,
    count: int,
    announce: Callable[[str, list[str]], None],
    changed: Callable[[list[str]], Awaitable[None]] | None = None,
) -> None:
    """Serve with so many workers until SIGTERM or SIGINT, then let running calls end.

    Args:
        settings: of the front, and of every worker but for the port.
        start: starts a worker.
        count: how many there are.
        announce: told the address and the tools' names once calls are taken.
        changed: told the workers' addresses after every change.

    Raises:
        AgentRLError: a worker could not be started at the beginning.
        UsageError: the settings do not fit.
    """
    check_address(settings.address, settings.token)
    told_to_end = ending_signals()
    metrics = FrontMetrics()
    fleet = Fleet(start, count, metrics, changed)
    host = FrontHost(fleet, settings)

    async def page() -> bytes:
        return merged({"front": metrics.page()} | await host.pages())

    async def begin() -> None:
        await fleet.begin()
        announce(url, [schema["function"]["name"] for schema in await host.schemas()])
        await told_to_end.wait()

    app = make_app(
        host,
        token=settings.token,
        metrics=metrics,
        servers=fleet.urls,
        page=page,
        protocols=protocol_routes(host),
    )
    async with host, listening(app, settings.address, settings.port) as url, sweeping(host):
        tasks = [asyncio.ensure_future(begin()), asyncio.ensure_future(told_to_end.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            host.draining = True
            for task in tasks:
                task.cancel()
            await fleet.end(settings.drain_seconds)

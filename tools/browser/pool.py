"""The browsers of this process of Python: started when an episode needs one, in a thread of their own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from agentrl import InfrastructureError, SessionLost
from agentrl.tools.browser.page import Page
from agentrl.tools.browser.process import BrowserLimits, Process
from agentrl.tools.browser.site import Site

T = TypeVar("T")
logger = logging.getLogger(__name__)


class BrowserThread:
    """An event loop in a daemon thread, where all of Playwright and the sites run.

    So browsers outlive the event loop of one rollout and are shared by the next, and a site's work does not
    hold up episodes.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work`` there; cancelling the one cancels the other."""
        return await asyncio.wrap_future(self.begin(work))

    def begin(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Let it be done there."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=[self._loop], name="browsers", daemon=True).start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """End the thread; a later call begins another."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(_cancel_all())
    loop.close()


async def _cancel_all() -> None:
    """End what is left: answers of sites that nobody waits for any more."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


class Pool:
    """Browser processes, each for so many pages, and a bound for all pages together.

    Everything but :meth:`thread` is to be called in the thread.
    """

    def __init__(
        self, limits: BrowserLimits, most_pages: int, pages_per_browser: int, wait_seconds: float,
        idle_seconds: float,
    ) -> None:  # fmt: skip
        self.thread = BrowserThread()
        self._limits, self._per_browser, self._idle_seconds = limits, pages_per_browser, idle_seconds
        self._most, self._wait_seconds = most_pages, wait_seconds
        self._places: asyncio.Semaphore | None = None
        self._starting: asyncio.Lock | None = None
        self._processes: dict[Process, int] = {}  # with the pages that each has or is about to have
        self._timers: dict[Process, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def open(self, site: Site) -> tuple[Page, AsyncExitStack]:
        """A page for an episode, and what closes it.

        Raises:
            InfrastructureError: no browser can be started, or there was no room for ``wait_seconds``.
            SandboxUnavailable: browsers cannot be confined here.
        """
        try:
            return await self._open(site)
        except SessionLost:  # the browser had died and was not yet known to have
            return await self._open(site)

    async def _open(self, site: Site) -> tuple[Page, AsyncExitStack]:
        async with AsyncExitStack() as stack:
            await self._place(stack)
            process = await self._process()
            stack.callback(self._leave, process)
            page = await stack.enter_async_context(process.page(site))
            return page, stack.pop_all()
        raise AssertionError

    async def close(self) -> None:
        """End all browsers."""
        processes = list(self._processes)
        self._processes.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await asyncio.gather(*(process.close() for process in processes), *self._ending)

    async def _place(self, stack: AsyncExitStack) -> None:
        if self._places is None:
            self._places, self._starting = asyncio.Semaphore(self._most), asyncio.Lock()
        if self._places.locked():
            logger.info("An episode waits for a browser page: all %d are in use", self._most)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise InfrastructureError(
                f"No browser page became free in {self._wait_seconds:g} s; all {self._most} (most_pages) are "
                "in use."
            ) from None
        stack.callback(self._places.release)

    async def _process(self) -> Process:
        """The fullest browser that has room, or a new one; with a page of it taken."""
        assert self._starting is not None
        async with self._starting:
            for dead in [process for process in self._processes if not process.alive]:
                self._end(dead)
            roomy = [process for process, pages in self._processes.items() if pages < self._per_browser]
            if roomy:
                process = max(roomy, key=lambda each: self._processes[each])
            else:
                process = Process(self._limits)
                await process.start()
                self._processes[process] = 0
            self._processes[process] += 1
            if process in self._timers:
                self._timers.pop(process).cancel()
            return process

    def _leave(self, process: Process) -> None:
        if process not in self._processes:
            return
        self._processes[process] -= 1
        if self._processes[process] == 0:
            loop = asyncio.get_running_loop()
            self._timers[process] = loop.call_later(self._idle_seconds, self._end, process)

    def _end(self, process: Process) -> None:
        """Close a browser in the background."""
        del self._processes[process]
        if process in self._timers:
            self._timers.pop(process).cancel()
        task = asyncio.ensure_future(self._closed(process))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    @staticmethod
    async def _closed(process: Process) -> None:
        with contextlib.suppress(OSError):
            await process.close()

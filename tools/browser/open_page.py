"""An episode's page, as its tools and its environment see it from the episode's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from agentrl import Observation
from agentrl.tools.browser.page import Page
from agentrl.tools.browser.pool import Pool
from agentrl.tools.browser.site import Site

T = TypeVar("T")
Watch = Callable[[], Awaitable[Observation | None]]


class OpenPage:
    """A page of a browser, and what was done on it.

    Attributes:
        page: its methods are to be awaited by :meth:`do`.
        watch: called after each action, in the episode's loop; an observation from it is shown instead of
            the page.
        done: the actions so far, by their tools' names, with their arguments.
    """

    def __init__(self, pool: Pool, page: Page, stack: AsyncExitStack) -> None:
        self._pool, self._stack, self.page = pool, stack, page
        self.watch: Watch | None = None
        self.done: list[tuple[str, dict[str, Any]]] = []

    @classmethod
    async def on(cls, pool: Pool, site: Site) -> OpenPage:
        """Open a page on a site's first address.

        Raises:
            InfrastructureError: it cannot be had.
            SandboxUnavailable: browsers cannot be confined here.
        """
        opening = asyncio.ensure_future(pool.thread.run(pool.open(site)))
        try:
            page, stack = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda opened: _let_go(pool, opened))
            raise
        return cls(pool, page, stack)

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a method of the page, in the browser's thread."""
        return await self._pool.thread.run(work)

    async def act(
        self, name: str, arguments: Mapping[str, Any], action: Coroutine[Any, Any, None], *, show: bool = True
    ) -> Observation:
        """Do something on the page and show what came of it.

        Args:
            name, arguments: what is noted.
            show: whether the page is shown; else it is only said that it is done.
        """
        self.done.append((name, dict(arguments)))
        await self.do(action)
        seen = None if self.watch is None else await self.watch()
        if seen is not None:
            return seen
        return await self.look() if show else Observation("Done.")

    async def repeat(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Do again what stands in :attr:`done`.

        Raises:
            ToolError: it fails now.
        """
        self.done.append((name, dict(arguments)))
        await self.do(getattr(self.page, name)(*arguments.values()))

    async def look(self, start: int = 0) -> Observation:
        """The page as text, from a line on."""
        return Observation(await self.do(self.page.read(start)), metadata={"url": self.page.url})

    async def close(self) -> None:
        """Let go of it."""
        await self._pool.thread.run(self._stack.aclose())


def _let_go(pool: Pool, opened: asyncio.Future[tuple[Page, AsyncExitStack]]) -> None:
    """Close what nobody waited for any more."""
    if not opened.cancelled() and opened.exception() is None:
        pool.thread.begin(opened.result()[1].aclose())

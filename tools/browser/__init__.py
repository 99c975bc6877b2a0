"""A browser for an episode: Chromium, confined to the episode's own site, read as text with numbers."""

from __future__ import annotations

from collections.abc import Sequence

from agentrl import ConfigError, Tool, ToolContext, ToolSet
from agentrl.tools.browser.actions import ACTIONS
from agentrl.tools.browser.open_page import OpenPage
from agentrl.tools.browser.page import Page, PageLimits
from agentrl.tools.browser.pool import Pool
from agentrl.tools.browser.process import BrowserLimits
from agentrl.tools.browser.site import Folder, Site, Upstream

__all__ = ["Browser", "Folder", "OpenPage", "Page", "Site", "Upstream"]

MARGIN_SECONDS = 30.0
"""A call may also have to wait for a browser to start or to become free."""


class Browser(ToolSet):
    """Tools to use one site in a browser. An episode has one page, in a context of its own.

    Chromium is driven by Playwright and confined by bubblewrap: its network namespace holds nothing but the
    episodes' sites. Episodes of a process share browsers, each of which serves so many.

    Args:
        site: the address of a server of yours that all episodes share, or a :class:`Site`. Leave it out where
            the environment opens the page by :meth:`enter` in its ``reset``.
        actions: names of the tools to offer; by default all.
        show: whether each action answers with the page as it is then; else the model has to ``read`` it.
        width, height: of the page, in pixels.
        lines: of the page that are shown at once.
        load_seconds: for a page to load, and for anything else it is asked.
        start_seconds: for a browser to start.
        most_pages: episodes with a page at once in this process; further ones wait.
        pages_per_browser: episodes that share a browser process, and are void if it dies.
        wait_seconds: that an episode waits for a page.
        idle_seconds: that a browser without pages lives on.
        executable: the Chromium; by default Debian's ``chromium-headless-shell`` or ``chromium``.

    Raises:
        ConfigError: an option does not fit, or Playwright is not installed.
    """

    def __init__(
        self,
        site: str | Site | None = None,
        actions: Sequence[str] = (),
        show: bool = True,
        width: int = 1000,
        height: int = 700,
        lines: int = 150,
        load_seconds: float = 10.0,
        start_seconds: float = 120.0,
        most_pages: int = 64,
        pages_per_browser: int = 16,
        wait_seconds: float = 120.0,
        idle_seconds: float = 60.0,
        executable: str = "",
    ) -> None:
        try:
            import playwright  # noqa: F401 - only whether it is there
        except ImportError as problem:
            raise ConfigError("Browsers are driven by Playwright: pip install 'agentrl[web]'.") from problem
        self.site = Upstream(site) if isinstance(site, str) else site
        known = {kind.name: kind for kind in ACTIONS}
        if unknown := [name for name in actions if name not in known]:
            raise ConfigError(f"A browser has no tool {unknown[0]!r}; it has {', '.join(known)}.")
        for name, value in (("lines", lines), ("most_pages", most_pages), ("width", width),
                            ("pages_per_browser", pages_per_browser), ("height", height)):  # fmt: skip
            if value < 1:
                raise ConfigError(f"{name}={value} must be at least 1.")
        self.show = show
        page = PageLimits(load_seconds=load_seconds, lines=lines)
        limits = BrowserLimits(executable, start_seconds, width, height, page)
        self._pool = Pool(limits, most_pages, pages_per_browser, wait_seconds, idle_seconds)
        self._pages: dict[int, tuple[OpenPage, int]] = {}
        kinds = [known[name] for name in actions] if actions else ACTIONS
        seconds = 2 * load_seconds + MARGIN_SECONDS
        self._tools: list[Tool] = [kind(self, seconds) for kind in kinds]

    def tools(self) -> list[Tool]:
        """Those that are offered."""
        return list(self._tools)

    async def enter(self, context: ToolContext, site: Site | None = None) -> OpenPage:
        """The page that all tools of an episode share; opened by the first who enters.

        Args:
            context: the episode's.
            site: what it shows, where that is not the browser's own.

        Raises:
            InfrastructureError: it cannot be had.
            SandboxUnavailable: browsers cannot be confined here.
            ConfigError: nobody said which site.
        """
        page, users = self._pages.get(id(context), (None, 0))
        if page is None:
            if (site := site or self.site) is None:
                raise ConfigError("A browser needs a site: Browser('http://127.0.0.1:8080/'), or a Site.")
            page = await OpenPage.on(self._pool, site)
        self._pages[id(context)] = page, users + 1
        return page

    async def leave(self, context: ToolContext) -> None:
        """One user of the episode needs the page no more; with the last it is closed."""
        page, users = self._pages.pop(id(context))
        if users > 1:
            self._pages[id(context)] = page, users - 1
        else:
            await page.close()

    async def close(self) -> None:
        """End all browsers. What is opened later gets new ones."""
        await self._pool.thread.run(self._pool.close())
        self._pool.thread.stop()

"""What a model can do on its page: one small tool for each."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from agentrl import Image, InfrastructureError, Observation, Tool, ToolContext
from agentrl.tools.browser.open_page import OpenPage
from agentrl.tools.browser.page import Direction


class Browsers(Protocol):
    """What the tools need of the set that they belong to."""

    show: bool

    async def enter(self, context: ToolContext) -> OpenPage:
        """The page of the episode."""

    async def leave(self, context: ToolContext) -> None:
        """Let go of it."""


class Action(Tool):
    """A tool that uses the page of its episode.

    Args:
        browser: whose page.
        seconds: for one call.
    """

    def __init__(self, browser: Browsers, seconds: float) -> None:
        self._browser, self.seconds = browser, seconds
        self._opened: OpenPage | None = None

    async def open(self) -> None:
        """Take part in the episode's page."""
        self._opened = await self._browser.enter(self.context)

    async def close(self) -> None:
        """Let go of it."""
        if self._opened is not None:
            self._opened = None
            await self._browser.leave(self.context)

    @property
    def opened(self) -> OpenPage:
        """The page.

        Raises:
            InfrastructureError: the tool was called before it was opened.
        """
        if self._opened is None:
            raise InfrastructureError(f"Tool {self.name} was called before it was opened.")
        return self._opened

    async def _act(self, action: Coroutine[Any, Any, None], **arguments: Any) -> Observation:
        return await self.opened.act(self.name, arguments, action, show=self._browser.show)


class Goto(Action):
    """Opens an address of the site."""

    name = "goto"

    async def call(self, url: str) -> Observation:
        """Open a page of the site.

        Args:
            url: its address
        """
        return await self._act(self.opened.page.goto(url), url=url)


class Click(Action):
    """Clicks."""

    name = "click"

    async def call(self, id: int) -> Observation:
        """Click an element.

        Args:
            id: its number
        """
        return await self._act(self.opened.page.click(id), id=id)


class Type(Action):
    """Fills in a field."""

    name = "type"

    async def call(self, id: int, text: str, enter: bool = False) -> Observation:
        """Write into a field, replacing what is there.

        Args:
            id: its number
            text: what to write
            enter: whether to press Enter afterwards
        """
        return await self._act(self.opened.page.type(id, text, enter), id=id, text=text, enter=enter)


class Select(Action):
    """Chooses from a list."""

    name = "select"

    async def call(self, id: int, option: str) -> Observation:
        """Choose an option of a list.

        Args:
            id: number of the list
            option: its text
        """
        return await self._act(self.opened.page.select(id, option), id=id, option=option)


class Scroll(Action):
    """Scrolls."""

    name = "scroll"

    async def call(self, direction: Direction, id: int | None = None) -> Observation:
        """Scroll the page, or a part of it.

        Args:
            direction: where to
            id: number of an element in that part
        """
        return await self._act(self.opened.page.scroll(direction, id), direction=direction, id=id)


class Back(Action):
    """Goes back."""

    name = "back"

    async def call(self) -> Observation:
        """Go back to the page before."""
        return await self._act(self.opened.page.back())


class Read(Action):
    """Reads the page as text."""

    name = "read"

    async def call(self, start: int = 0) -> Observation:
        """Show what is on the page.

        Args:
            start: the first line to show
        """
        return await self.opened.look(start)


class Screenshot(Action):
    """Shows the page as a picture."""

    name = "screenshot"

    async def call(self) -> Image:
        """Show the page as a picture."""
        return await self.opened.do(self.opened.page.screenshot())


ACTIONS: tuple[type[Action], ...] = (Goto, Click, Type, Select, Scroll, Back, Read, Screenshot)

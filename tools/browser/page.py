"""One episode's page: what can be done on it, and how it is read."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urljoin, urlsplit

from agentrl import DefinitionError, Image, SessionLost, ToolError
from agentrl.tools.browser.scripts import SCROLL, SELECT, SET_VALUE, SPOT, TICK
from agentrl.tools.browser.view import Element, Numbers, View, make_view, nameless, read_marks

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, CDPSession
    from playwright.async_api import Page as Tab

    from agentrl.tools.browser.gate import Visit

Direction = Literal["up", "down", "left", "right"]

logger = logging.getLogger(__name__)

TEXT_CHARACTERS = 4000
"""The longest text that can be typed at once."""
KEYS_CHARACTERS = 100
"""A longer text is put in at once instead of key by key."""
WRITTEN = {"textbox", "searchbox", "combobox", "spinbutton"}
SET = {"Date", "DateTime", "InputTime", "ColorWell", "slider"}
WORLD = "agentrl"

_STEPS: dict[Direction, tuple[int, int]] = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}


@dataclass(frozen=True)
class PageLimits:
    """Bounds of a page.

    Args:
        load_seconds: until a page has loaded, and for anything else that the browser is asked.
        lines: of a view that are shown at once.
    """

    load_seconds: float
    lines: int


class Page:
    """A page in a context of its own. Its methods are for the browser's event loop, one at a time.

    They raise :class:`agentrl.SessionLost` once the page or its browser has crashed or been closed, and
    :class:`agentrl.ToolError` where a page does not load or answer in time.
    """

    def __init__(self, context: BrowserContext, tab: Tab, visit: Visit, limits: PageLimits) -> None:
        self._context, self._tab, self._visit, self._limits = context, tab, visit, limits
        self._cdp: CDPSession
        self._main_frame = ""
        self._numbers, self._view = Numbers(), View([], {})
        self._crashed = False
        self._limit: asyncio.Timeout | None = None  # of what is being done
        self._asked_to_load, self._idle = False, asyncio.Event()
        self._idle.set()
        self._dialogs: list[str] = []

    # ---- its life -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load the site's first page.

        Raises:
            SessionLost: it does not load; nothing of the episode has happened yet.
        """
        self._cdp = await self._context.new_cdp_session(self._tab)
        self._tab.set_default_timeout(self._limits.load_seconds * 1000)
        self._tab.on("crash", self._on_crash)
        self._tab.on("dialog", self._on_dialog)
        self._context.on("page", lambda tab: asyncio.ensure_future(_dismiss(tab)))
        await self._cdp.send("Page.enable")
        self._main_frame = (await self._cdp.send("Page.getFrameTree"))["frameTree"]["frame"]["id"]
        for name, idle in (
            ("Page.frameRequestedNavigation", False),
            ("Page.frameStartedLoading", False),
            ("Page.frameStoppedLoading", True),
        ):
            self._cdp.on(name, lambda event, idle=idle: self._on_loading(event, idle))
        try:
            await self.goto(self._visit.site.start)
        except ToolError as problem:
            raise SessionLost(f"The site's first page did not load: {problem}") from problem

    def _on_loading(self, event: dict[str, Any], idle: bool) -> None:
        if event.get("frameId") == self._main_frame:
            self._idle.set() if idle else self._idle.clear()

    def _on_crash(self, _: object) -> None:
        self._crashed = True
        if self._limit is not None:  # nothing will answer any more
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def _on_dialog(self, dialog: Any) -> None:
        self._dialogs.append(f"{dialog.type}: {dialog.message[:500]}")
        await (dialog.accept() if dialog.type in ("alert", "beforeunload") else dialog.dismiss())

    @asynccontextmanager
    async def _guarded(self, what: str) -> AsyncIterator[None]:
        """Tell apart what the page does, what the site does, and what the browser does."""
        from playwright.async_api import Error

        if self.lost:
            raise SessionLost("The browser or its page has ended.")
        try:
            async with asyncio.timeout(self._limits.load_seconds) as self._limit:
                yield
        except (Error, TimeoutError) as problem:
            if self.lost:
                raise SessionLost(f"The browser or its page has ended, in {what}: {problem}") from problem
            if isinstance(problem, TimeoutError) or type(problem).__name__ == "TimeoutError":
                await self._stop_loading()
                raise ToolError(
                    f"The page did not load or answer within {self._limits.load_seconds:g} s."
                ) from problem
            words = str(problem).split("\n", 1)[0]
            raise ToolError(f"{what} failed: {words.removeprefix('Page.')}") from problem
        if self._visit.problem is not None:
            raise DefinitionError(
                f"The site {self._visit.site.host} raised {type(self._visit.problem).__name__}: "
                f"{self._visit.problem}."
            ) from self._visit.problem

    @property
    def lost(self) -> bool:
        """Whether the page or its browser has ended."""
        browser = self._context.browser
        return self._crashed or self._tab.is_closed() or browser is None or not browser.is_connected()

    async def _stop_loading(self) -> None:
        self._idle.set()
        try:
            async with asyncio.timeout(self._limits.load_seconds):
                await self._cdp.send("Page.stopLoading")
        except Exception as problem:  # the page answers nothing; the next action will tell
            logger.info("A page could not be stopped: %s", problem)

    # ---- what it shows --------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Its address."""
        return str(self._tab.url)

    async def read(self, start: int = 0) -> str:
        """The page as text, from a line on: what is on it, numbered where it can be acted on.

        Raises:
            ToolError: there are not so many lines.
        """
        async with self._guarded("read"):
            nodes = (await self._cdp.send("Accessibility.getFullAXTree"))["nodes"]
            marks = {}
            if nameless(nodes):
                document = await self._cdp.send("DOM.getDocument", {"depth": -1, "pierce": True})
                marks = read_marks(document["root"])
        self._view = make_view(nodes, self._numbers, marks)
        lines = list(self._view.lines)
        if start and start >= len(lines):
            raise ToolError(f"The page has {len(lines)} lines; start must be less.")
        shown = lines[start : start + self._limits.lines]
        left = len(lines) - start - len(shown)
        if left > 0:
            shown.append(f"({left} more lines: read with start={start + len(shown)})")
        notes, self._dialogs = [f"({text})" for text in self._dialogs], []
        if self.url.startswith("chrome-error:"):
            notes.append(f"(This address could not be opened; only those of {self._visit.site.origin} can.)")
            shown = []
        return "\n".join([*notes, *shown]) or "(The page is empty.)"

    async def screenshot(self) -> Image:
        """What of the page is in view, as PNG."""
        async with self._guarded("screenshot"):
            return Image(await self._tab.screenshot(type="png"))

    async def evaluate(self, script: str, argument: Any = None) -> Any:
        """What a JavaScript function of the environment's own gives on the page; nothing of a model's.

        The page itself can see and change what it is given.

        Raises:
            SessionLost: it cannot be had; no model asked for it.
        """
        try:
            async with self._guarded("evaluate"):
                return await self._tab.evaluate(script, argument)
        except ToolError as problem:
            raise SessionLost(f"The page did not answer the environment: {problem}") from problem

    async def cookies(self) -> list[dict[str, Any]]:
        """The context's cookies."""
        async with self._guarded("cookies"):
            return [dict(cookie) for cookie in await self._context.cookies()]

    async def set_cookies(self, cookies: list[dict[str, Any]]) -> None:
        """Replace the context's cookies."""
        async with self._guarded("cookies"):
            await self._context.clear_cookies()
            await self._context.add_cookies(json.loads(json.dumps(cookies)))

    # ---- what can be done -----------------------------------------------------------------------

    async def goto(self, url: str) -> None:
        """Open an address of the site.

        Raises:
            ToolError: it is none.
        """
        origin = self._visit.site.origin
        try:
            there = urljoin(f"{origin}/", url.strip())
            parts = urlsplit(there)
            foreign = f"{parts.scheme}://{parts.netloc}" != origin
        except ValueError:  # no address at all, such as http://[
            foreign = True
        if foreign:
            raise ToolError(f"Only addresses of {origin} can be opened, not {url[:200]!r}.")
        async with self._guarded("goto"):
            await self._tab.goto(there, wait_until="load")
            await self._settle()

    async def back(self) -> None:
        """Go to the page before.

        Raises:
            ToolError: there is none.
        """
        async with self._guarded("back"):
            history = await self._cdp.send("Page.getNavigationHistory")
            index = history["currentIndex"] - 1
            if index < 0 or not history["entries"][index]["url"].startswith(self._visit.site.origin):
                raise ToolError("There is no page before this one.")
            await self._tab.go_back(wait_until="load")
            await self._settle()

    async def click(self, number: int) -> None:
        """Click an element."""
        element = self._element(number)
        if element.role == "option":
            raise ToolError(f"[{number}] is an option of a list: use select on the list.")
        async with self._guarded("click"):
            x, y = await self._spot(element, number)
            await self._tab.mouse.click(x, y)
            await self._settle()

    async def type(self, number: int, text: str, enter: bool = False) -> None:
        """Replace what is written in a field."""
        element = self._element(number)
        if len(text) > TEXT_CHARACTERS:
            raise ToolError(f"At most {TEXT_CHARACTERS} characters can be typed at once.")
        if element.role not in WRITTEN | SET or (element.role == "combobox" and element.options):
            raise ToolError(f"[{number}] is no field to type into, but: {element.role}.")
        async with self._guarded("type"):
            await self._cdp.send("DOM.scrollIntoViewIfNeeded", {"backendNodeId": element.id})
            if element.role in SET:
                if await self._call(element, SET_VALUE, text) != text:
                    raise ToolError(f"[{number}] does not take {text[:100]!r}.")
            else:
                await self._write(element, text)
            if enter:
                await self._tab.keyboard.press("Enter")
            await self._settle()

    async def _write(self, element: Element, text: str) -> None:
        await self._cdp.send("DOM.focus", {"backendNodeId": element.id})
        await self._tab.keyboard.press("Control+A")
        if not text:
            await self._tab.keyboard.press("Delete")
        elif len(text) > KEYS_CHARACTERS:
            await self._tab.keyboard.insert_text(text)
        else:
            await self._tab.keyboard.type(text)

    async def select(self, number: int, option: str) -> None:
        """Choose an option of a list; of one that takes several, one more."""
        element = self._element(number)
        async with self._guarded("select"):
            if not await self._call(element, SELECT, option):
                known = ", ".join(element.options[:20]) or "none"
                raise ToolError(f"[{number}] has no option {option[:100]!r}; it has: {known}.")
            await self._settle()

    async def scroll(self, direction: Direction, number: int | None = None) -> None:
        """Scroll the page, or what an element lies in."""
        async with self._guarded("scroll"):
            element = Element(self._numbers.document, "") if number is None else self._element(number)
            if not await self._call(element, SCROLL, *_STEPS[direction]):
                raise ToolError(f"It cannot be scrolled {direction} any further.")
            await self._settle()

    # ---- how ------------------------------------------------------------------------------------

    def _element(self, number: int) -> Element:
        found = self._view.elements.get(number)
        if self.lost:
            raise SessionLost("The browser or its page has ended.")
        if found is None:
            raise ToolError(f"There is no [{number}] on the page now. Read the page.")
        return found

    async def _spot(self, element: Element, number: int) -> tuple[float, float]:
        """Where in the window to click: the first spot at which the element is not covered by another."""
        from playwright.async_api import Error

        try:
            await self._cdp.send("DOM.scrollIntoViewIfNeeded", {"backendNodeId": element.id})
            spot = await self._call(element, SPOT)
        except Error as problem:
            if self.lost:
                raise
            raise ToolError(f"[{number}] is not visible now.") from problem
        if spot is None:
            raise ToolError(f"[{number}] is not visible now.")
        return float(spot[0]), float(spot[1])

    async def _call(self, element: Element, function: str, *arguments: Any) -> Any:
        """What a function of ours gives on an element, in a world that the page's scripts do not share."""
        world = await self._cdp.send(
            "Page.createIsolatedWorld", {"frameId": self._main_frame, "worldName": WORLD}
        )
        node = await self._cdp.send(
            "DOM.resolveNode",
            {"backendNodeId": element.id, "executionContextId": world["executionContextId"]},
        )
        answer = await self._cdp.send(
            "Runtime.callFunctionOn",
            {
                "objectId": node["object"]["objectId"],
                "functionDeclaration": function,
                "arguments": [{"value": value} for value in arguments],
                "returnByValue": True,
            },
        )
        if "exceptionDetails" in answer:
            raise ToolError("The element does not take that.")
        return answer["result"].get("value")

    async def _settle(self) -> None:
        """Wait until what an action set off at once is done: scripts, and a page that is being loaded."""
        from playwright.async_api import Error

        while True:
            try:
                await self._tab.evaluate(TICK)
            except Error:  # the document has gone while it was asked
                if self.lost:
                    raise
            if self._idle.is_set():
                return
            await self._idle.wait()


async def _dismiss(tab: Tab) -> None:
    """Windows that a page opens are closed: an episode has one page."""
    from playwright.async_api import Error

    try:
        await tab.close()
    except Error as problem:
        logger.info("A window could not be closed: %s", problem)

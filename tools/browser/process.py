"""One confined Chromium with the gate behind it, driven by Playwright. Lives in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentrl import InfrastructureError, SandboxUnavailable, SessionLost
from agentrl.tools.browser.confine import PORT, find_browser, write_program
from agentrl.tools.browser.gate import HEADER, Gate, Visit
from agentrl.tools.browser.page import Page, PageLimits
from agentrl.tools.browser.site import Site

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext

CLOSE_SECONDS = 5.0
SWITCHES = (
    f"--host-resolver-rules=MAP *.test 127.0.0.1:{PORT}, EXCLUDE localhost",
    "--disable-gpu",
    "--disable-webgl",
    "--disable-smooth-scrolling",
    "--js-flags=--max-old-space-size=128",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
)


@dataclass(frozen=True)
class BrowserLimits:
    """What a browser is started with.

    Args:
        executable: the Chromium; by default Debian's.
        start_seconds: until it is there.
        width, height: of pages, in pixels.
        page: limits of each page.
    """

    executable: str
    start_seconds: float
    width: int
    height: int
    page: PageLimits


class Process:
    """A browser process, whose contexts are episodes."""

    def __init__(self, limits: BrowserLimits) -> None:
        self._limits, self._gate = limits, Gate()
        self._stack = AsyncExitStack()
        self._browser: Browser | None = None

    @property
    def alive(self) -> bool:
        """Whether it can be used."""
        return self._browser is not None and self._browser.is_connected()

    async def start(self) -> None:
        """Start it.

        Raises:
            SandboxUnavailable: it cannot be confined here, or is not installed.
            InfrastructureError: it did not start.
        """
        executable = find_browser(self._limits.executable)
        try:
            async with asyncio.timeout(self._limits.start_seconds):
                await self._start(executable)
        except TimeoutError:
            await self.close()
            raise InfrastructureError(
                f"The browser {executable} did not start in {self._limits.start_seconds:g} s (start_seconds)."
            ) from None
        except BaseException:
            await self.close()
            raise

    async def _start(self, executable: str) -> None:
        from playwright.async_api import Error, async_playwright

        folder = Path(tempfile.mkdtemp(prefix="agentrl-browser-"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)  # nobody's user has to pass it
        control = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        control.setblocking(False)
        control.bind(str(folder / "gate"))
        control.listen(1)
        program = write_program(folder, executable, folder / "gate")
        playwright = await self._stack.enter_async_context(async_playwright())
        launching = asyncio.ensure_future(
            playwright.chromium.launch(
                executable_path=program,
                chromium_sandbox=True,
                headless=True,
                args=list(SWITCHES),
                env={"PATH": "/usr/bin:/bin"},
                timeout=self._limits.start_seconds * 1000,
                handle_sigint=False,
                handle_sigterm=False,
                handle_sighup=False,
            )
        )
        receiving = asyncio.ensure_future(_receive(control))
        try:
            await asyncio.wait([launching, receiving], return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                await self._gate.start(receiving.result())
                self._stack.push_async_callback(self._gate.close)
            self._browser = await launching
        except Error as problem:
            raise _failure(executable, str(problem)) from problem
        finally:
            launching.cancel()
            receiving.cancel()
            shutil.rmtree(folder, ignore_errors=True)  # this process of Python may end without a close
        self._stack.push_async_callback(_close_quietly, self._browser)

    @asynccontextmanager
    async def page(self, site: Site) -> AsyncIterator[Page]:
        """A page in a context of its own, on the site's first page; gone at the end.

        Raises:
            SessionLost: the browser has ended.
        """
        from playwright.async_api import Error

        assert self._browser is not None
        visit = Visit(site)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._gate.admit(visit))
            try:
                context = await self._browser.new_context(
                    viewport={"width": self._limits.width, "height": self._limits.height},
                    extra_http_headers={HEADER: visit.token},
                    service_workers="block",
                    accept_downloads=False,
                    reduced_motion="reduce",
                    locale="en-US",
                    timezone_id="UTC",
                )
                stack.push_async_callback(_close_quietly, context)
                async with asyncio.timeout(self._limits.start_seconds):
                    page = Page(context, await context.new_page(), visit, self._limits.page)
                    await page.open()
            except (Error, TimeoutError) as problem:
                raise SessionLost(f"A browser page could not be opened: {_first_line(problem)}.") from problem
            yield page

    async def close(self) -> None:
        """End it and free all it held. May be called twice."""
        self._browser = None
        await self._stack.aclose()


async def _receive(control: socket.socket) -> socket.socket:
    """The listening socket that the starting program sends, from the browser's network namespace."""
    loop = asyncio.get_running_loop()
    connection, _ = await loop.sock_accept(control)
    with connection:
        readable = asyncio.Event()
        loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(connection)
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    if not descriptors:
        raise InfrastructureError("The browser's launcher ended before it had a network namespace.")
    return socket.socket(fileno=descriptors[0])


def _failure(executable: str, words: str) -> InfrastructureError | SandboxUnavailable:
    if "No usable sandbox" in words or "Operation not permitted" in words or "bwrap:" in words:
        return SandboxUnavailable(
            f"The browser {executable} cannot be confined here: user namespaces are not allowed. Its words: "
            f"{words[-500:]}"
        )
    return InfrastructureError(f"The browser {executable} did not start: {words[:1000]}")


async def _close_quietly(closing: Browser | BrowserContext) -> None:
    """Close what may have gone already, or may not answer any more."""
    from playwright.async_api import Error

    with contextlib.suppress(Error, TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await closing.close()


def _first_line(problem: Exception) -> str:
    return str(problem).strip().split("\n", 1)[0].rstrip(".")

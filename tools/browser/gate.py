"""The one server that a browser reaches: it passes each request to the site of the episode it comes from."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentrl.tools.browser.site import Site

if TYPE_CHECKING:
    from aiohttp import web

HEADER = "X-Agentrl-Episode"
"""Names the episode in every request of its browser. Pages cannot read it and do not know another's."""


class Visit:
    """An episode's right to its site, and what the site raised."""

    def __init__(self, site: Site) -> None:
        self.site, self.token = site, secrets.token_hex(16)
        self.problem: Exception | None = None


class Gate:
    """Serves the sites of a browser's episodes on a socket of the browser's network namespace."""

    def __init__(self) -> None:
        self._visits: dict[str, Visit] = {}
        self._runner: web.ServerRunner | None = None

    async def start(self, listener: socket.socket) -> None:
        """Serve on a listening socket, which is closed with the gate."""
        from aiohttp import web

        self._runner = web.ServerRunner(
            web.Server(self._handle, handler_cancellation=True), access_log=None, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def close(self) -> None:
        """End every connection."""
        if self._runner is not None:
            await self._runner.cleanup()

    @contextmanager
    def admit(self, visit: Visit) -> Iterator[None]:
        """Let an episode's requests through for a while."""
        self._visits[visit.token] = visit
        try:
            yield
        finally:
            del self._visits[visit.token]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import web

        visit = self._visits.get(request.headers.get(HEADER, ""))
        if visit is None or request.host != visit.site.host or "Upgrade" in request.headers:
            return web.Response(status=403, text="There is nothing here.")
        try:
            return await visit.site.answer(request)
        except web.HTTPException as answer:
            return web.Response(status=answer.status, text=answer.text, headers=answer.headers)
        except Exception as problem:  # the site's own fault, told by the page's next action
            visit.problem = visit.problem or problem
            return web.Response(status=500, text="The site has failed.")

"""The board on which runs leave groups of episodes for each other, over HTTP.

Nothing posted is looked into: whoever takes it judges it again. What is kept is bounded.
"""

from __future__ import annotations

import hmac
import itertools
import secrets
from collections import deque
from collections.abc import Awaitable, Callable

from aiohttp import web

from agentrl.serve.server import check_address

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MOST_BYTES = 1 << 20
MOST_AT_ONCE = 64


class Board:
    """The newest groups, with who posted them.

    Args:
        most: groups that are kept.
        most_bytes: of all of them.
    """

    def __init__(self, most: int = 1024, most_bytes: int = 256 << 20) -> None:
        self.name = secrets.token_hex(8)
        self._most, self._most_bytes = most, most_bytes
        self._groups: deque[tuple[int, str, str]] = deque()
        self._bytes = 0
        self._count = 0

    def post(self, node: str, text: str) -> None:
        """Keep a group; the oldest gives way."""
        self._count += 1
        self._groups.append((self._count, node, text))
        self._bytes += len(text)
        while len(self._groups) > self._most or self._bytes > self._most_bytes:
            self._bytes -= len(self._groups.popleft()[2])

    def since(self, number: int, node: str) -> tuple[int, list[str]]:
        """The first groups after a number that others than ``node`` posted, and the number to go on from."""
        later = ((at, text) for at, who, text in self._groups if at > number and who != node)
        found = list(itertools.islice(later, MOST_AT_ONCE))
        return (found[-1][0] if len(found) == MOST_AT_ONCE else self._count), [text for _, text in found]


def make_board_app(board: Board, token: str | None = None) -> web.Application:
    """``POST /groups`` and ``GET /groups?since=N&node=NAME&server=ID``.

    Args:
        board: what is kept.
        token: what callers must show, as ``Authorization: Bearer …``.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and not hmac.compare_digest(shown.encode(), token.encode()):
            return web.json_response({"error": "the token is missing or wrong"}, status=401)
        return await handler(request)

    async def post(request: web.Request) -> web.Response:
        try:
            group = await request.json()
            node = group["node"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return web.json_response({"error": "this is no group of episodes"}, status=400)
        if not isinstance(node, str):
            return web.json_response({"error": "a group names its node"}, status=400)
        board.post(node, await request.text())
        return web.json_response({"kept": True})

    async def get(request: web.Request) -> web.Response:
        since = request.query.get("since", "0")
        if not since.isdecimal() or len(since) > 18:
            return web.json_response({"error": "since is a number"}, status=400)
        known = request.query.get("server", "") == board.name  # else it counted on another server
        number, groups = board.since(int(since) if known else 0, request.query.get("node", ""))
        return web.json_response({"server": board.name, "next": number, "groups": groups})

    app = web.Application(middlewares=[guarded], client_max_size=MOST_BYTES)
    app.router.add_post("/groups", post)
    app.router.add_get("/groups", get)
    return app


def run_board(address: str, port: int, token: str | None, *, most: int) -> None:
    """Serve until the process is told to end.

    Raises:
        ConfigError: the address is not this machine's own, and there is no token.
    """
    check_address(address, token)
    web.run_app(make_board_app(Board(most), token), host=address, port=port, access_log=None)

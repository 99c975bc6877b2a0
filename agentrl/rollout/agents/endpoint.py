"""The server that agents take for a model's: a base URL and a key for each episode."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from agentrl.rollout.agents.anthropic_messages import AnthropicMessages
from agentrl.rollout.agents.chat_completions import ChatCompletions
from agentrl.rollout.agents.exchange import Dialect, Refused, Session
from agentrl.rollout.agents.responses import Responses
from agentrl.rollout.toolbox import unicode
from agentrl.rollout.waiting import to_the_end

if TYPE_CHECKING:
    from aiohttp import web

logger = logging.getLogger(__name__)

REQUEST_BYTES = 16 * 2**20
"""The largest request; a dialogue's text, JSON included."""

CLOSE_SECONDS = 1.0
"""How long open connections may last when the server ends."""

DIALECTS: dict[str, Dialect] = {
    "chat/completions": ChatCompletions(),
    "responses": Responses(),
    "messages": AnthropicMessages(),
}
"""By the end of the path."""

COUNT = "messages/count_tokens"


class Endpoint:
    """Serves the episodes that are under way in this process; it listens only while there are some.

    An episode's base URL is ``http://HOST:PORT/KEY/v1``, and its key is the API key too: a client
    that keeps either finds its episode. Clients that put ``/v1`` in front of their paths by
    themselves may be given the same URL.

    Args:
        host: the address to listen at.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host, self._port = host, 0
        self._sessions: dict[str, Session] = {}
        self._users = 0
        self._changing = asyncio.Lock()
        self._runner: web.AppRunner | None = None

    @asynccontextmanager
    async def serve(self, session: Session) -> AsyncIterator[tuple[str, str]]:
        """``(base_url, api_key)`` of an episode, good until the context ends.

        Raises:
            OSError: the address cannot be listened at.
        """
        key = secrets.token_urlsafe(24)
        await self._enter()
        self._sessions[key] = session
        try:
            yield f"http://{self._host}:{self._port}/{key}/v1", key
        finally:
            del self._sessions[key]
            await to_the_end(self._leave())

    async def _enter(self) -> None:
        async with self._changing:
            if self._users == 0:
                await self._open()
            self._users += 1

    async def _leave(self) -> None:
        async with self._changing:
            self._users -= 1
            if self._users == 0 and self._runner is not None:
                runner, self._runner = self._runner, None
                await runner.cleanup()

    async def _open(self) -> None:
        from aiohttp import web

        app = web.Application(client_max_size=REQUEST_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A client that hangs up wants no answer: its turn is not sampled to the end.
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=CLOSE_SECONDS
        )
        try:
            await runner.setup()
            site = web.TCPSite(runner, self._host, 0)
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner, self._port = runner, runner.addresses[0][1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        key, what = _split(request.path)
        dialect = DIALECTS.get(what, DIALECTS["messages"] if what == COUNT else DIALECTS["responses"])
        try:
            session = self._sessions.get(key) or self._sessions.get(_key_in_headers(request.headers))
            if session is None:
                raise Refused("No episode has this key; it may have ended.", status=401, code="no_episode")
            if what not in (*DIALECTS, COUNT) or request.method != "POST":
                offered = ", ".join((*DIALECTS, COUNT))
                raise Refused(
                    f"{request.method} …/{what} is not offered; POST to one of {offered}.",
                    status=404,
                    code="not_found",
                )
            body = await _json(request)
            asked = _read(dialect, body)
            if what == COUNT:
                return web.json_response({"input_tokens": session.count(asked)})
            reply = await session.sample(asked)
        except Refused as problem:
            # Official clients repeat requests by themselves, unless they are told that it is no use.
            headers = {"x-should-retry": "false"}
            return web.json_response(dialect.error(problem), status=problem.status, headers=headers)
        if not body.get("stream"):
            return web.json_response(dialect.write(reply, body))
        return await _stream(request, dialect, dialect.stream(reply, body))


def _split(path: str) -> tuple[str, str]:
    """The first part of a path, and its end without the versions that clients put before it."""
    first, _, rest = path.strip("/").partition("/")
    if first == "v1":
        first = ""
    while rest.startswith("v1/"):
        rest = rest.removeprefix("v1/")
    return first, rest


def _key_in_headers(headers: Any) -> str:
    bearer = headers.get("Authorization", "")
    return str(headers.get("x-api-key") or bearer.removeprefix("Bearer ").strip())


async def _json(request: web.Request) -> dict[str, Any]:
    from aiohttp import web

    try:
        data = await request.read()
        body = json.loads(data)
        if b"\\ud" in data.lower():  # halves of surrogate pairs can be neither tokenized nor stored
            body = json.loads(unicode(json.dumps(body, ensure_ascii=False)))
    except web.HTTPRequestEntityTooLarge:
        raise Refused(f"The request has more than {REQUEST_BYTES} bytes.", status=413) from None
    except (ValueError, RecursionError) as problem:
        raise Refused(f"The request is not JSON: {problem}.") from problem
    if not isinstance(body, dict):
        raise Refused("The request is not a JSON object.")
    return body


def _read(dialect: Dialect, body: dict[str, Any]) -> Any:
    try:
        return dialect.read(body)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise Refused(f"The request cannot be read: {type(problem).__name__}: {problem}.") from problem


async def _stream(request: web.Request, dialect: Dialect, events: Any) -> web.StreamResponse:
    from aiohttp import web

    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for event in events:
        name = f"event: {event['type']}\n" if "type" in event else ""
        await response.write(f"{name}data: {json.dumps(event)}\n\n".encode())
    await response.write_eof(dialect.end_of_stream)
    return response

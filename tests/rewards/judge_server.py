"""A real HTTP server that plays an OpenAI-compatible endpoint, in all its moods."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Answer = Callable[[dict[str, Any]], Any]
"""Given the request's body: a text to say, a response, or a function to await."""


def says(text: Any) -> web.Response:
    """A chat completion."""
    return web.json_response({"choices": [{"message": {"role": "assistant", "content": text}}]})


class Endpoint:
    """Gives its answers one after another, the last one again and again."""

    def __init__(self, answers: Iterator[Any]) -> None:
        self.answers, self.last = answers, None
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.now = self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(json.loads(await request.read()))
        self.headers.append(dict(request.headers))
        self.last = next(self.answers, self.last)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.gate.wait()
            if self.last == "hang":
                await asyncio.sleep(3600)
            if self.last == "drop":
                assert request.transport is not None
                request.transport.abort()
            if isinstance(self.last, tuple):
                status, headers, body = self.last
                return web.Response(status=status, headers=headers, body=body)
            return says(self.last)
        finally:
            self.now -= 1


@asynccontextmanager
async def serving(*answers: Any) -> AsyncIterator[Endpoint]:
    """Serve answers: texts, ``hang``, ``drop``, or (status, headers, body)."""
    endpoint = Endpoint(iter(answers))
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/v1/chat/completions", endpoint.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield endpoint
    finally:
        await runner.cleanup()

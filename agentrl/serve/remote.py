"""A served tool as a tool of an episode: ``tools = ["http://HOST:8000/python"]``."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from typing import Any

from agentrl.errors import ConfigError, InfrastructureError, InvalidArguments, NotFound, ToolError
from agentrl.registry import nearest
from agentrl.serve.client import ToolClient
from agentrl.serve.host import CallRequest
from agentrl.tool import Tool, ToolContext

SCHEMA_SECONDS = 30.0
_SHOWN = ("ok", "error", "malformed", "unknown")


class _Shared:
    """One client for the tools of one server, in each event loop for as long as an episode uses it."""

    def __init__(self, server: str, token: str | None) -> None:
        self._server, self._token = server, token
        self._clients: dict[asyncio.AbstractEventLoop, ToolClient] = {}
        self._sessions: dict[tuple[asyncio.AbstractEventLoop, int], tuple[str, int]] = {}

    async def enter(self, context: ToolContext) -> tuple[ToolClient, str]:
        """The client, and the session that all tools of an episode share."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = ToolClient(self._server, token=self._token)
        client, key = self._clients[loop], (loop, id(context))
        name, users = self._sessions.get(key, (f"{context.episode_id[:80]}-{uuid.uuid4().hex}", 0))
        self._sessions[key] = name, users + 1
        try:
            await client.open(name, task=context.task)
        except BaseException:
            await self.leave(context)
            raise
        return client, name

    async def leave(self, context: ToolContext) -> None:
        """One tool of the episode needs the session no more."""
        loop = asyncio.get_running_loop()
        name, users = self._sessions.pop((loop, id(context)))
        if users > 1:
            self._sessions[loop, id(context)] = name, users - 1
            return
        client = self._clients[loop]
        if any(other is loop for other, _ in self._sessions):
            await client.end(name)
        else:
            del self._clients[loop]
            await client.close()


class RemoteTool(Tool):
    """Calls a tool on a server, in a session of the episode's own that its tools there share.

    An answer that the server gave for a tool that raised or took too long is shown to the model as an error.
    Lost sessions and servers void the episode, as lost sandboxes do.

    Args:
        schema: the tool, in the form of OpenAI's function calling.
        shared: the way to its server.
    """

    def __init__(self, schema: dict[str, Any], shared: _Shared) -> None:
        self._schema, self._shared = schema, shared
        self._at: tuple[ToolClient, str] | None = None
        self.__dict__["name"] = schema["function"]["name"]

    @property
    def schema(self) -> dict[str, Any]:
        return self._schema

    @property
    def description(self) -> str:
        return str(self._schema["function"].get("description", ""))

    async def open(self) -> None:
        self._at = await self._shared.enter(self.context)

    async def close(self) -> None:
        if self._at is not None:
            self._at = None
            await self._shared.leave(self.context)

    async def invoke(self, arguments: Mapping[str, Any]) -> Any:
        if self._at is None:
            raise InfrastructureError(f"Tool {self.name} was called before it was opened.")
        client, session = self._at
        answer = await client.call(CallRequest(self.name, arguments, session, uuid.uuid4().hex))
        if answer.status in _SHOWN:
            return answer.observation
        raise (InvalidArguments if answer.status == "invalid" else ToolError)(answer.observation.text)


def from_url(url: str, token: str | None = None) -> RemoteTool:
    """The tool at ``http://HOST:PORT/NAME``.

    Asks the server what it offers, the first time that one of its tools is named, and blocks while it does,
    for at most 30 s: to be called at start-up, not in an event loop that serves.

    Args:
        url: a server's address and the tool's name.
        token: what the server wants to be shown; default: ``AGENTRL_TOKEN`` of the environment.

    Raises:
        ConfigError: the address names no tool, or the token is wrong.
        NotFound: the server has no such tool.
        InfrastructureError: it cannot be asked.
    """
    server, _, name = url.rstrip("/").rpartition("/")
    if server.count("/") < 2 or not name or server.endswith("/"):
        raise ConfigError(f"{url!r} names no tool; write http://HOST:PORT/NAME.")
    shared, schemas = _server(server, token or os.environ.get("AGENTRL_TOKEN"))
    if name not in schemas:
        raise NotFound(f"{server} has no tool {name!r}. {nearest(name, list(schemas))}")
    return RemoteTool(schemas[name], shared)


@functools.cache
def _server(server: str, token: str | None) -> tuple[_Shared, dict[str, dict[str, Any]]]:
    """A server and what it offers; asked once, when the first of its tools is made."""
    request = urllib.request.Request(f"{server}/v1/tools")  # noqa: S310  http or https: see the registry
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=SCHEMA_SECONDS) as answer:  # noqa: S310
            tools = json.load(answer)["tools"]
    except urllib.error.HTTPError as problem:
        if problem.code == 401:
            raise ConfigError(f"{server} wants a token: set AGENTRL_TOKEN or the option token.") from None
        raise InfrastructureError(f"{server} does not tell its tools: {problem}.") from problem
    except (OSError, ValueError, KeyError) as problem:
        raise InfrastructureError(f"{server} does not tell its tools: {problem}. Does it run?") from problem
    return _Shared(server, token), {tool["function"]["name"]: tool for tool in tools}

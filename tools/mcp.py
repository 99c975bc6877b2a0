"""The tools of an MCP server, over the official SDK: ``tools = ["mcp:https://HOST/mcp", "mcp:COMMAND"]``."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import os
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING, Any, TextIO, TypeVar, cast
from weakref import WeakKeyDictionary

from agentrl import (
    ConfigError,
    Image,
    InfrastructureError,
    Observation,
    SessionLost,
    Tool,
    ToolContext,
    ToolError,
    ToolSet,
)

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult
    from mcp_types import Tool as Offered

T = TypeVar("T")
logger = logging.getLogger(__name__)

MOST_TOOLS = 256
"""Tools that one server may offer; more fit no prompt."""
AGAIN_SECONDS = 30.0
"""After a server did not tell its tools, so long passes until it is asked again."""
END_SECONDS = 9.0
"""How long a session may take to end; the SDK kills a command before that."""
LAST_WORDS = 500
"""Characters of what a command wrote to its standard error that a message repeats."""


class McpServer(ToolSet):
    """An MCP server: each of its tools becomes a tool of an environment.

    Every episode has a session of its own, which its tools share: a process of its own for a command, a
    connection for a URL. The server is the user's choice and runs as the user does: nothing isolates it.

    Args:
        server: its URL (streamable HTTP), or the command line that starts it and speaks MCP on its standard
            input and output. The command sees only HOME, PATH and the like of the environment; write
            ``env KEY=value COMMAND`` for more.
        token: sent to a URL as a bearer token.
        start_seconds: how long it may take until a session is there.
        most_sessions: sessions at once in this process; further episodes wait.
        image_bytes: size of the pictures of one result; what is beyond is left out, with a note.

    Raises:
        ConfigError: the SDK is not installed, or the command cannot be read.
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        start_seconds: float = 60.0,
        most_sessions: int = 64,
        image_bytes: int = 10 << 20,
    ) -> None:
        try:
            import mcp  # noqa: F401 - only whether it is there
        except ImportError as problem:
            raise ConfigError("Tools of MCP servers need the SDK: pip install 'agentrl[mcp]'.") from problem
        self.server, self.token = server, token
        self.start_seconds, self.most_sessions, self.image_bytes = start_seconds, most_sessions, image_bytes
        self._command = [] if server.startswith(("http://", "https://")) else _words(server)
        self._tools: list[Tool] | None = None
        self._failure: tuple[float, str] | None = None
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._sessions: dict[int, tuple[_Session, int]] = {}
        self.holding: set[asyncio.Task[None]] = set()

    def __str__(self) -> str:
        return f"MCP server {self.server!r}"

    def tools(self) -> list[Tool]:
        """Its tools. Asks it the first time and blocks while it does, for at most ``start_seconds``.

        Where it fails it is not asked again for 30 s, lest many episodes wait for it one after the other.

        Raises:
            InfrastructureError: it cannot be started or reached, or does not answer.
            ConfigError: it offers too many tools.
        """
        if self._tools is None:
            if self._failure is not None and time.monotonic() < self._failure[0]:
                raise InfrastructureError(self._failure[1])
            try:
                self._tools = [McpTool(self, tool) for tool in _in_a_thread(self._list)]
            except InfrastructureError as problem:
                self._failure = time.monotonic() + AGAIN_SECONDS, str(problem)
                raise
        return list(self._tools)

    async def enter(self, context: ToolContext) -> _Session:
        """The session that all tools of an episode share.

        Raises:
            InfrastructureError: it cannot be had.
        """
        session, users = self._sessions.get(id(context), (None, 0))
        if session is None:
            session = _Session(self)
            await session.start()
        self._sessions[id(context)] = session, users + 1
        return session

    async def leave(self, context: ToolContext) -> None:
        """One tool of the episode needs the session no more."""
        session, users = self._sessions.pop(id(context))
        if users > 1:
            self._sessions[id(context)] = session, users - 1
        else:
            await session.close()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Room for one session; waits for it."""
        places = self._places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.most_sessions))
        if places.locked():
            logger.info("%s: an episode waits, all %d sessions are in use", self, self.most_sessions)
        async with places:
            yield

    @asynccontextmanager
    async def connect(self, errors: IO[str]) -> AsyncIterator[Client]:
        """A client of the server, ready for calls; to be entered and left by one task."""
        import httpx2
        from mcp import Client
        from mcp.client.stdio import StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        if self._command:
            command, *arguments = self._command
            parameters = StdioServerParameters(command=command, args=arguments)
            async with Client(stdio_client(parameters, errlog=cast(TextIO, errors))) as client:
                yield client
            return
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else None
        limits = httpx2.Timeout(self.start_seconds, read=None)  # a call has a limit of its own
        async with (
            httpx2.AsyncClient(headers=headers, timeout=limits) as http,
            Client(streamable_http_client(self.server, http_client=http)) as client,
        ):
            yield client

    async def _list(self) -> list[Offered]:
        session, found = _Session(self), []
        await session.start()
        try:
            async with asyncio.timeout(self.start_seconds):
                page = await session.client.list_tools()
                found += page.tools
                while page.next_cursor and len(found) <= MOST_TOOLS:
                    page = await session.client.list_tools(cursor=page.next_cursor)
                    found += page.tools
        except Exception as problem:  # whatever the SDK raises
            why = f"no answer in {self.start_seconds:g} s" if isinstance(problem, TimeoutError) else problem
            raise InfrastructureError(f"{self} does not tell its tools: {why}.") from problem
        finally:
            await session.close()
        if len(found) > MOST_TOOLS:
            raise ConfigError(f"{self} offers more than {MOST_TOOLS} tools; name some, as mcp:…#NAME.")
        return found


class McpTool(Tool):
    """One tool of an MCP server; the server checks the arguments.

    An error that the server reports is shown to the model. A server that ends or cannot be reached voids
    the episode. Tools that the server calls read-only may be called side by side.
    """

    def __init__(self, server: McpServer, offered: Offered) -> None:
        self._server, self._offered = server, offered
        self._session: _Session | None = None
        self.__dict__["name"] = offered.name
        self.__dict__["parallel"] = bool(offered.annotations and offered.annotations.read_only_hint)

    @property
    def description(self) -> str:
        return self._offered.description or self._offered.title or ""

    @property
    def schema(self) -> dict[str, Any]:
        parameters = {key: value for key, value in self._offered.input_schema.items() if key != "$schema"}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }

    async def open(self) -> None:
        self._session = await self._server.enter(self.context)

    async def close(self) -> None:
        if self._session is not None:
            self._session = None
            await self._server.leave(self.context)

    async def invoke(self, arguments: Mapping[str, Any]) -> Observation:
        if self._session is None:
            raise InfrastructureError(f"Tool {self.name} was called before it was opened.")
        return _observation(await self._session.call(self.name, arguments), self._server.image_bytes)


class _Session:
    """One session, entered and left by a task of its own, as the SDK demands."""

    def __init__(self, server: McpServer) -> None:
        self._server = server
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client:
        return self._ready.result()

    async def start(self) -> None:
        """Begin the session.

        Raises:
            InfrastructureError: the server did not start, could not be reached or did not answer in time.
        """
        self._task = asyncio.create_task(self._hold())
        self._server.holding.add(self._task)  # it may have to end the session when nobody waits any more
        self._task.add_done_callback(self._server.holding.discard)
        try:
            await asyncio.shield(self._ready)
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    async def close(self) -> None:
        """End it; the SDK stops a command that does not end by itself."""
        self._stop.set()
        if self._task is not None:
            await asyncio.shield(asyncio.wait([self._task]))

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> CallToolResult:
        """Call a tool.

        Raises:
            SessionLost: the server has ended or cannot be reached.
            ToolError: it refuses the call.
        """
        from mcp import MCPError

        call = asyncio.ensure_future(self.client.call_tool(tool, dict(arguments)))
        assert self._task is not None
        why = "the session has ended"
        try:
            await asyncio.wait([call, self._task], return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                return call.result()
        except MCPError as problem:
            if not _is_loss(problem):
                raise ToolError(f"{tool}: {problem}") from problem
            why = str(problem)
        finally:
            call.cancel()
        raise SessionLost(f"{self._server} was lost in a call of {tool!r}: {why}.")

    async def _hold(self) -> None:
        async with self._server.place():
            with tempfile.TemporaryFile("w+") as errors:
                try:
                    async with asyncio.timeout(self._server.start_seconds) as limit:
                        async with self._server.connect(errors) as client:
                            limit.reschedule(None)
                            self._ready.set_result(client)
                            await self._stop.wait()
                            limit.reschedule(asyncio.get_running_loop().time() + END_SECONDS)
                except Exception as problem:  # whatever the SDK raises
                    if self._ready.done():
                        logger.info("%s: the session ended with %s", self._server, _explained(problem))
                    else:
                        self._ready.set_exception(self._failure(problem, errors))

    def _failure(self, problem: Exception, errors: IO[str]) -> InfrastructureError:
        if isinstance(problem, TimeoutError):
            why = f"it did not answer in {self._server.start_seconds:g} s (start_seconds)"
        else:
            why = _explained(problem)
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - LAST_WORDS))
        words = errors.read().strip()
        return InfrastructureError(
            f"{self._server} cannot be used: {why}.{f' Its last words: {words}' if words else ''}"
        )


def _is_loss(problem: Exception) -> bool:
    """Whether an error says that the connection or the session is gone, not that a call is refused."""
    from mcp_types import CONNECTION_CLOSED, INTERNAL_ERROR, INVALID_REQUEST

    return getattr(problem, "code", None) in (CONNECTION_CLOSED, INTERNAL_ERROR, INVALID_REQUEST)


def _explained(problem: BaseException) -> str:
    """In words; of a group, the first."""
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return f"{type(problem).__name__}: {problem}".rstrip(".: ")


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as problem:
        raise ConfigError(f"The command of the MCP server {command!r} cannot be read: {problem}.") from None
    if not words or not words[0]:
        raise ConfigError("An MCP server needs a URL or a command: mcp:URL or mcp:COMMAND.")
    return words


def _in_a_thread(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run to its end in an event loop of its own, whether or not one runs here."""
    with ThreadPoolExecutor(1, thread_name_prefix="mcp-list") as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


def _observation(result: CallToolResult, image_bytes: int) -> Observation:
    """A result as the model is shown it."""
    from mcp_types import EmbeddedResource, ImageContent, ResourceLink, TextContent, TextResourceContents

    texts: list[str] = []
    images: list[Image] = []
    for block in result.content:
        if isinstance(block, TextContent):
            texts.append(block.text)
        elif isinstance(block, ImageContent):
            image = _image(block.data, block.mime_type)
            image_bytes -= len(image.data)
            if image_bytes < 0:
                texts.append(f"[a picture of {len(image.data)} bytes is left out: too large]")
            else:
                images.append(image)
        elif isinstance(block, EmbeddedResource) and isinstance(block.resource, TextResourceContents):
            texts.append(block.resource.text)
        elif isinstance(block, ResourceLink):
            texts.append(f"{block.name}: {block.uri}")
        else:
            texts.append(f"[{block.type} left out: it cannot be shown]")
    structured = result.structured_content
    if not result.content and structured is not None:
        texts.append(json.dumps(structured, ensure_ascii=False))
    metadata = {} if structured is None else {"structured": structured}
    return Observation("\n".join(texts), tuple(images), error=bool(result.is_error), metadata=metadata)


def _image(data: str, media_type: str) -> Image:
    try:
        return Image(base64.b64decode(data, validate=True), media_type)
    except binascii.Error as problem:
        raise ToolError(f"The server sent a picture that is not valid base64: {problem}.") from None

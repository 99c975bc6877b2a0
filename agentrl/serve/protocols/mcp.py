"""MCP over streamable HTTP: any MCP client lists the tools and calls them.

Each MCP session is a session of the host. Answers are plain JSON, which the protocol allows for every
request; nothing is ever sent unasked, so no stream is kept open. Sessions are what the handshake revisions of
the protocol have: a client that tries a revision without them is told which ones are spoken here, and falls
back.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from agentrl.errors import AgentRLError, ServerBusy, SessionLost
from agentrl.serve.host import CallAnswer, CallRequest, ToolHost
from agentrl.serve.protocols.senders import Senders

if TYPE_CHECKING:
    from mcp_types import CallToolResult, JSONRPCNotification, JSONRPCRequest

logger = logging.getLogger(__name__)
SESSION_HEADER, VERSION_HEADER = "Mcp-Session-Id", "MCP-Protocol-Version"
REQUEST_CANCELLED = -32800
"""JSON-RPC's usual code for a request that its sender took back."""


@dataclass(frozen=True, slots=True)
class McpLimits:
    """What clients may take.

    Args:
        most: MCP sessions at once; another one is refused. The host has a limit of its own.
        idle_seconds: after so long without a request a session is ended.
        body_bytes: the largest request.
    """

    most: int = 1024
    idle_seconds: float = 900.0
    body_bytes: int = 16 << 20


@dataclass(slots=True)
class _Session:
    name: str
    running: dict[str, asyncio.Task[CallAnswer]] = field(default_factory=dict)
    requests: int = 0
    expiry: asyncio.TimerHandle | None = None


class _RpcError(Exception):
    """Answered as a JSON-RPC error."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        status: int = 200,
        data: Any = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.data = code, message, status, data
        self.retry_after = retry_after


def routes(
    host: ToolHost,
    *,
    hosts: Collection[str] = (),
    origins: Collection[str] = (),
    limits: McpLimits | None = None,
) -> list[web.RouteDef]:
    """The endpoint ``/mcp``; nothing where the package ``mcp`` is not installed.

    Args:
        hosts: names under which this server may be addressed, besides this machine's and IP addresses.
        origins: web pages that may use it, as ``https://name:port``, besides this machine's own.
        limits: what clients may take.
    """
    try:
        import mcp_types  # noqa: F401 - only whether it is there
    except ModuleNotFoundError:
        logger.info("MCP is not served: install agentrl[mcp]")
        return []
    served = Mcp(host, hosts, origins, limits or McpLimits())
    return [
        web.post("/mcp", served.post),
        web.get("/mcp", served.get),
        web.delete("/mcp", served.delete),
    ]


class Mcp:
    """The endpoint's handlers and its sessions."""

    def __init__(
        self, host: ToolHost, hosts: Collection[str], origins: Collection[str], limits: McpLimits
    ) -> None:
        self._host, self._limits = host, limits
        self._senders = Senders(hosts, origins)
        self._sessions: dict[str, _Session] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._methods: Mapping[str, Callable[[_Session, JSONRPCRequest], Awaitable[Any]]] = {
            "ping": self._ping,
            "tools/list": self._list,
            "tools/call": self._call,
        }

    # ---- HTTP

    async def get(self, request: web.Request) -> web.Response:
        """No stream is offered: nothing is ever sent unasked."""
        self._senders.check(request)
        raise web.HTTPMethodNotAllowed("GET", ["POST", "DELETE"])

    async def delete(self, request: web.Request) -> web.Response:
        """End an MCP session, and with it the host's."""
        self._senders.check(request)
        session = self._sessions.get(request.headers.get(SESSION_HEADER, ""))
        if session is None:
            return _error(None, _RpcError(-32600, "There is no such session.", status=404))
        await self._end(session)
        return web.Response(status=200)

    async def post(self, request: web.Request) -> web.Response:
        """One JSON-RPC message: a request is answered, a notification taken."""
        from mcp_types import JSONRPCRequest

        self._senders.check(request)
        identity: str | int | None = None
        try:
            message = await self._message(request)
            if isinstance(message, JSONRPCRequest):
                identity = message.id
            if isinstance(message, JSONRPCRequest) and message.method == "initialize":
                return await self._initialize(message)
            self._check_version(request, message)
            session = self._session(request)
            if not isinstance(message, JSONRPCRequest):
                self._notified(session, message)
                return web.Response(status=202)
            result = await self._answered(session, message)
        except _RpcError as problem:
            return _error(identity, problem)
        return _result(identity, result)

    async def _message(self, request: web.Request) -> JSONRPCRequest | JSONRPCNotification | None:
        from mcp_types import JSONRPCNotification, JSONRPCRequest
        from pydantic import ValidationError

        if request.content_type != "application/json":
            raise _RpcError(-32600, "Send application/json.", status=415)
        body = bytearray()
        async for part in request.content.iter_any():
            body += part
            if len(body) > self._limits.body_bytes:
                raise _RpcError(-32600, f"A request has {self._limits.body_bytes} bytes at most.", status=413)
        try:
            decoded = json.loads(body)
        except (ValueError, RecursionError):
            raise _RpcError(-32700, "The body is not JSON.", status=400) from None
        if not isinstance(decoded, dict):
            raise _RpcError(-32600, "Send one JSON-RPC message; batches are not taken.", status=400)
        if "method" not in decoded and ("result" in decoded or "error" in decoded):
            return None  # the answer to a request, and we never make one
        kind = JSONRPCRequest if "id" in decoded else JSONRPCNotification
        try:
            return kind.model_validate(decoded)
        except ValidationError as problem:
            raise _RpcError(-32600, f"Not a JSON-RPC message: {_words(problem)}", status=400) from None

    @staticmethod
    def _check_version(request: web.Request, message: Any) -> None:
        from mcp_types import UNSUPPORTED_PROTOCOL_VERSION
        from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

        version = request.headers.get(VERSION_HEADER)
        if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            raise _RpcError(
                UNSUPPORTED_PROTOCOL_VERSION,
                f"Revision {version!r} is not spoken here.",
                status=400,
                data={"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": version},
            )

    # ---- sessions

    async def _initialize(self, message: JSONRPCRequest) -> web.Response:
        from mcp_types import Implementation, InitializeResult, ServerCapabilities, ToolsCapability
        from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION

        from agentrl import __version__

        if len(self._sessions) >= self._limits.most:
            raise _RpcError(-32603, "There is no room for another session.", status=503, retry_after=5.0)
        session = _Session(f"mcp-{uuid.uuid4().hex}")
        self._sessions[session.name] = session
        try:
            await self._host.open(session.name)
        except BaseException as problem:
            self._expired(session)  # the host may have opened it all the same
            if isinstance(problem, AgentRLError):
                raise _machinery(problem) from None
            raise
        self._rest(session)
        wanted = (message.params or {}).get("protocolVersion")
        result = InitializeResult(
            protocol_version=wanted if wanted in HANDSHAKE_PROTOCOL_VERSIONS else LATEST_HANDSHAKE_VERSION,
            capabilities=ServerCapabilities(tools=ToolsCapability()),
            server_info=Implementation(name="agentrl", version=__version__),
        )
        return _result(message.id, result, {SESSION_HEADER: session.name})

    def _session(self, request: web.Request) -> _Session:
        name = request.headers.get(SESSION_HEADER)
        if name is None:
            raise _RpcError(-32600, f"Begin with initialize, then send {SESSION_HEADER}.", status=400)
        if name not in self._sessions:
            raise _RpcError(-32600, "The session is gone; begin another one.", status=404)
        return self._sessions[name]

    async def _answered(self, session: _Session, message: JSONRPCRequest) -> Any:
        method = self._methods.get(message.method)
        if method is None:
            raise _RpcError(-32601, f"There is no method {message.method!r} here.")
        session.requests += 1
        if session.expiry is not None:
            session.expiry.cancel()
        try:
            return await method(session, message)
        except SessionLost as problem:
            self._forget(session)
            raise _RpcError(-32600, str(problem), status=404) from None
        except AgentRLError as problem:
            raise _machinery(problem) from None
        finally:
            session.requests -= 1
            self._rest(session)

    def _rest(self, session: _Session) -> None:
        """Start the clock that ends a session nobody uses."""
        if session.requests == 0 and session.name in self._sessions:
            if session.expiry is not None:
                session.expiry.cancel()
            loop = asyncio.get_running_loop()
            session.expiry = loop.call_later(self._limits.idle_seconds, self._expired, session)

    def _expired(self, session: _Session) -> None:
        task = asyncio.ensure_future(self._end(session))
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            logger.warning("an idle MCP session could not be ended: %s", problem)

    def _forget(self, session: _Session) -> None:
        self._sessions.pop(session.name, None)
        if session.expiry is not None:
            session.expiry.cancel()

    async def _end(self, session: _Session) -> None:
        self._forget(session)
        for task in session.running.values():
            task.cancel()
        await self._host.end(session.name)

    # ---- what a client may ask

    async def _ping(self, session: _Session, message: JSONRPCRequest) -> Any:
        from mcp_types import EmptyResult

        return EmptyResult()

    async def _list(self, session: _Session, message: JSONRPCRequest) -> Any:
        from mcp_types import ListToolsResult, Tool

        functions = [schema["function"] for schema in await self._host.schemas()]
        tools = [
            Tool(name=f["name"], description=f.get("description") or None, input_schema=f["parameters"])
            for f in functions
        ]
        return ListToolsResult(tools=tools)

    async def _call(self, session: _Session, message: JSONRPCRequest) -> Any:
        from mcp_types import CallToolRequestParams
        from pydantic import ValidationError

        try:
            wanted = CallToolRequestParams.model_validate(message.params or {})
        except ValidationError as problem:
            raise _RpcError(-32602, f"Not a tool call: {_words(problem)}") from None
        identity = json.dumps(message.id)  # 1 and "1" are two requests
        if identity in session.running:
            raise _RpcError(-32600, f"A request with the id {identity} is still running.")
        request = CallRequest(wanted.name, wanted.arguments or {}, session.name, identity)
        task = asyncio.ensure_future(self._host.call(request))
        task.add_done_callback(_noted)
        session.running[identity] = task
        try:
            answer = await task
        except asyncio.CancelledError:
            task.cancel()  # when it is the client that went away
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise _RpcError(REQUEST_CANCELLED, "The request was cancelled.") from None
        finally:
            session.running.pop(identity, None)
        if answer.status == "unknown":
            raise _RpcError(-32602, answer.observation.text)
        return _seen(answer)

    def _notified(self, session: _Session, message: JSONRPCNotification | None) -> None:
        if message is None or message.method != "notifications/cancelled":
            return
        task = session.running.get(json.dumps((message.params or {}).get("requestId")))
        if task is not None:
            task.cancel()


def _seen(answer: CallAnswer) -> CallToolResult:
    """An answer as MCP shows it: text first, then images."""
    from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent

    seen = answer.observation
    content: list[ContentBlock] = []
    if seen.text or not seen.images:
        content.append(TextContent(text=seen.text))
    for image in seen.images:
        data = base64.b64encode(image.data).decode()
        content.append(ImageContent(data=data, mime_type=image.media_type))
    return CallToolResult(content=content, is_error=seen.error or answer.status != "ok")


def _machinery(problem: AgentRLError) -> _RpcError:
    """What a machine did, as an error of the request and never as a tool's answer."""
    if isinstance(problem, ServerBusy):
        return _RpcError(-32603, str(problem), status=503, retry_after=problem.retry_after)
    return _RpcError(-32603, f"{type(problem).__name__}: {problem}", status=500)


def _result(
    identity: str | int | None, result: Any, headers: Mapping[str, str] | None = None
) -> web.Response:
    payload = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    return web.json_response({"jsonrpc": "2.0", "id": identity, "result": payload}, headers=headers)


def _error(identity: str | int | None, problem: _RpcError) -> web.Response:
    error: dict[str, Any] = {"code": problem.code, "message": problem.message}
    if problem.data is not None:
        error["data"] = problem.data
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(problem.retry_after)))
    body = {"jsonrpc": "2.0", "id": identity, "error": error}
    return web.json_response(body, status=problem.status, headers=headers)


def _words(problem: Any) -> str:
    """A pydantic error on one line."""
    return "; ".join(
        f"{'.'.join(map(str, error['loc'])) or 'message'}: {error['msg']}" for error in problem.errors()
    )


def _noted(task: asyncio.Task[Any]) -> None:
    """Look at what a call raised whose caller has gone, so that asyncio does not complain of it."""
    if not task.cancelled():
        task.exception()

"""Tools on servers elsewhere: sessions hashed over servers, retries that run nothing twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote

import aiohttp
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from yarl import URL

from agentrl.errors import (
    AgentRLError,
    ConfigError,
    DefinitionError,
    InfrastructureError,
    ServerBusy,
    SessionLost,
)
from agentrl.serve.host import CallAnswer, CallRequest, ToolHost
from agentrl.serve.wire import Answer, Call, OpenSession, Refusal, WireTask, to_error
from agentrl.task import Task

logger = logging.getLogger(__name__)

TRIES = 4
"""Of one request whose connection breaks; each carries the same call id."""
FIRST_WAIT = 0.1
"""Seconds before the second try; doubles."""
AVOID_SECONDS = 5.0
"""How long a server that could not be reached is asked last."""
CONNECT_SECONDS = 10.0
ASK_SECONDS = 30.0
"""For whatever is no call."""
REMEMBERED = 10_000
"""Names of ended sessions that are remembered."""


class Unreachable(InfrastructureError):
    """A server broke off every try of a request.

    Args:
        message: which server, and why.
        sent: whether one of the tries may have reached it.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ToolClient(ToolHost):
    """Answers calls by asking servers. Lives in one event loop.

    A session lives on one server, chosen by rendezvous hashing; if that cannot be reached, the session is
    lost and new ones go to the others. A broken connection is tried again with the same call id, and so is a
    busy server, for as long as there is patience.

    Args:
        servers: addresses, as ``http://HOST:PORT``; one that names others in ``/v1/servers`` stands for them.
            Or what tells, each time, which there are.
        token: what they want to be shown.
        patience: seconds for which a busy server is asked again.
        call_seconds: the longest wait for a call that names no time of its own.
        slack: seconds that an answer may take beyond the call's own, the server's queue included.
        refresh_seconds: after so long, opening a session asks anew which servers there are.
        connections: open at once, at most; calls under way hold one each.

    Raises:
        ConfigError: there is no address, or one is none.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | Callable[[], Sequence[str]],
        *,
        token: str | None = None,
        patience: float = 60.0,
        call_seconds: float = 600.0,
        slack: float = 90.0,
        refresh_seconds: float = 5.0,
        connections: int = 4096,
    ) -> None:
        self._behind: dict[str, list[str]] = {}
        if callable(servers):
            self._members: Callable[[], Iterable[str]] = servers
        else:
            self._behind = {url: [url] for url in _addresses(servers)}
            self._members = lambda: {url for urls in self._behind.values() for url in urls}
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._patience, self._call_seconds, self._slack = patience, call_seconds, slack
        self._refresh_seconds, self._connections = refresh_seconds, connections
        self._http: aiohttp.ClientSession | None = None
        self._refreshed: float | None = None
        self._refreshing = asyncio.Lock()
        self._avoided: dict[str, float] = {}
        self._homes: dict[str, str] = {}
        self._gone: OrderedDict[str, str] = OrderedDict()
        self._closed = False

    async def schemas(self) -> list[dict[str, Any]]:
        await self._refresh()
        problem: Unreachable | None = None
        for server in self._ranked(""):
            try:
                answer = await self._ask("GET", server, "/v1/tools")
            except Unreachable as failed:
                problem = failed
                continue
            tools: list[dict[str, Any]] = answer["tools"]
            return tools
        assert problem is not None
        raise problem

    async def open(self, session: str, *, task: Task | None = None, tools: Sequence[str] = ()) -> None:
        if session in self._homes:
            return
        self._not_gone(session)
        await self._refresh()
        body = _open_body(task, tools)
        problem: InfrastructureError | None = None
        for server in self._ranked(session):
            try:
                await self._ask("POST", server, _path(session), body)
            except (Unreachable, ServerBusy) as failed:
                problem = failed
                continue
            self._homes[session] = server
            return
        assert problem is not None
        raise problem

    async def call(self, request: CallRequest) -> CallAnswer:
        call = Call(
            tool=request.tool,
            arguments=dict(request.arguments),
            id=request.id or uuid.uuid4().hex,
            seconds=request.seconds,
        )
        limit = (request.seconds or self._call_seconds) + self._slack
        if not request.session:
            return await self._loose_call(call, limit)
        home = self._homes.get(request.session)
        if home is None:
            self._not_gone(request.session)
            raise SessionLost(f"Session {request.session!r} was never opened by this client.")
        try:
            return await self._call(home, _path(request.session) + "/calls", call, limit)
        except Unreachable as problem:
            self._lose(request.session, str(problem))
            raise SessionLost(f"Session {request.session!r} is gone with its server: {problem}") from problem
        except SessionLost as problem:
            self._lose(request.session, str(problem))
            raise

    async def _loose_call(self, call: Call, limit: float) -> CallAnswer:
        """Ask servers in turn, as long as it is certain that none of them has begun."""
        await self._refresh()
        problem: Unreachable | None = None
        for server in self._ranked(call.id):
            try:
                return await self._call(server, "/v1/calls", call, limit)
            except Unreachable as failed:
                if failed.sent:
                    raise
                problem = failed
        assert problem is not None
        raise problem

    async def _call(self, server: str, path: str, call: Call, limit: float) -> CallAnswer:
        answer = await self._send("POST", server, path, _json(call), limit)
        try:
            return Answer.model_validate_json(answer).to_answer()
        except ValidationError as problem:
            raise InfrastructureError(f"{server} gave no answer that is one: {problem}") from None

    async def end(self, session: str) -> None:
        home = self._homes.get(session)
        if home is None:
            return
        self._lose(session, "it was ended by its caller")
        try:
            await self._ask("DELETE", home, _path(session))
        except InfrastructureError as problem:  # the server ends it by itself once it has been idle
            logger.warning("session %s could not be ended: %s", session, problem)

    async def close(self) -> None:
        if self._closed:
            return
        await asyncio.gather(*(self.end(session) for session in list(self._homes)))
        self._closed = True
        if self._http is not None:
            await self._http.close()

    # ---- sessions and servers

    def home(self, session: str) -> str | None:
        """The server that a session lives on; ``None`` for one that is not open."""
        return self._homes.get(session)

    def _lose(self, session: str, why: str) -> None:
        if self._homes.pop(session, None) is None:
            return
        self._gone[session] = why
        while len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)

    def _not_gone(self, session: str) -> None:
        if session in self._gone:
            raise SessionLost(f"Session {session!r} is gone, with what it held: {self._gone[session]}")

    def _ranked(self, key: str) -> list[str]:
        """All servers in the order in which to ask them about ``key``; the unreachable ones last.

        Raises:
            ServerBusy: there is none at the moment.
        """
        members = set(self._members())
        if not members:
            raise ServerBusy("No server is up at the moment; nothing was run.", 1.0)
        now = asyncio.get_running_loop().time()

        def rank(url: str) -> tuple[bool, bytes]:
            return self._avoided.get(url, 0.0) > now, hashlib.sha256(f"{url} {key}".encode()).digest()

        return sorted(members, key=rank)

    async def _refresh(self) -> None:
        """Ask which servers there are, now and then. One that does not answer keeps what it last named."""
        async with self._refreshing:
            now = asyncio.get_running_loop().time()
            if self._refreshed is not None and now - self._refreshed < self._refresh_seconds:
                return
            await asyncio.gather(*(self._learn(url) for url in self._behind))
            members = set(self._members())
            self._avoided = {url: until for url, until in self._avoided.items() if url in members}
            self._refreshed = asyncio.get_running_loop().time()

    async def _learn(self, url: str) -> None:
        try:
            answer = await self._ask("GET", url, "/v1/servers")
        except InfrastructureError as problem:
            logger.info("%s does not tell which servers there are: %s", url, problem)
            return
        self._behind[url] = [str(each).rstrip("/") for each in answer["servers"]] or [url]

    # ---- requests

    async def _ask(self, method: str, server: str, path: str, body: bytes = b"") -> dict[str, Any]:
        answer = json.loads(await self._send(method, server, path, body, ASK_SECONDS))
        if not isinstance(answer, dict):
            raise InfrastructureError(f"{server}{path} answered with something that is no JSON object.")
        return answer

    async def _send(self, method: str, server: str, path: str, body: bytes, seconds: float) -> bytes:
        """The body of an answer, within so many seconds, all tries included."""
        try:
            async with asyncio.timeout(seconds):
                return await self._tries(method, server, path, body)
        except TimeoutError:
            raise InfrastructureError(f"{server}{path} gave no answer in {seconds:g} s.") from None

    async def _tries(self, method: str, server: str, path: str, body: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        patient_until, broken, sent = loop.time() + self._patience, 0, False
        while True:
            try:
                return await self._try(method, server, path, body)
            except ServerBusy as busy:
                left = patient_until - loop.time()
                if left <= 0:
                    raise
                await asyncio.sleep(min(busy.retry_after, left))
            except (aiohttp.ClientError, ConnectionError) as problem:
                broken += 1
                sent = sent or not isinstance(problem, aiohttp.ClientConnectorError)
                if broken == TRIES:
                    self._avoided[server] = loop.time() + AVOID_SECONDS
                    why = str(problem) or type(problem).__name__
                    raise Unreachable(f"{server} cannot be reached: {why}", sent=sent) from problem
                await asyncio.sleep(FIRST_WAIT * 2 ** (broken - 1))

    async def _try(self, method: str, server: str, path: str, body: bytes) -> bytes:
        url = URL(server + path, encoded=True)
        async with self._client().request(method, url, data=body, allow_redirects=False) as response:
            answer = await response.read()
            if response.status >= 300:
                raise _error(response.status, answer, server)
            return answer

    def _client(self) -> aiohttp.ClientSession:
        if self._closed:
            raise SessionLost("This tool client is closed.")
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
            connector = aiohttp.TCPConnector(limit=self._connections)
            headers = {"Content-Type": "application/json", **self._headers}
            self._http = aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector)
        return self._http


def _addresses(servers: str | Sequence[str]) -> list[str]:
    given = [servers] if isinstance(servers, str) else list(servers)
    if not given:
        raise ConfigError("A tool client needs the address of a server, as http://HOST:PORT.")
    for url in given:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is no address of a server; write http://HOST:PORT.")
    return [url.rstrip("/") for url in given]


def _path(session: str) -> str:
    return f"/v1/sessions/{quote(session, safe='')}"


def _open_body(task: Task | None, tools: Sequence[str]) -> bytes:
    wire = None
    if task is not None:
        wire = WireTask(prompt=task.prompt, answer=task.answer, id=str(task.id), metadata=dict(task.metadata))
    return _json(OpenSession(task=wire, tools=list(tools)))


def _json(message: Call | OpenSession) -> bytes:
    try:
        return message.model_dump_json().encode()
    except PydanticSerializationError as problem:
        raise DefinitionError(f"What is sent to a tool server must be JSON: {problem}") from None


def _error(status: int, body: bytes, server: str) -> AgentRLError:
    """What a server's refusal means."""
    try:
        problem = Refusal.model_validate_json(body).error
    except ValidationError:
        return InfrastructureError(f"{server} answered {status} and did not say why.")
    if status == 401:
        return ConfigError(f"{server} wants another token: {problem.message}")
    return to_error(problem)

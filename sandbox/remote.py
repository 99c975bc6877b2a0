"""The remote backend: sandboxes on servers elsewhere."""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypeVar, cast, get_args

from agentrl.errors import ConfigError, SandboxError, ServerBusy, SessionLost

from .fusion import FusionSession
from .protocol import DEFAULT_LIMITS, Availability, Limits, Program, Result, Sandbox, Session
from .remote_servers import Servers, Unreachable
from .remote_session import RemoteSession, unpacked
from .wire_http import ABOUT, CONTENT_TYPE, RUN, SESSIONS, pack, text_bytes, to_result

Protocol = Literal["agentrl", "sandbox-fusion"]
T = TypeVar("T")

_CREATE_SECONDS = 120.0
_HEADERS = {"Content-Type": CONTENT_TYPE}
_ISOLATES = ("whatever its servers isolate: RemoteSandbox.check() asks them",)
_WEAKER = (
    "It is as good as its servers, which see all code and files; connections are private if the addresses "
    "are https, or the network is your own.",
)
_FUSION = (
    "A SandboxFusion server keeps nothing between calls and does not tell how it isolates. Of the limits, "
    "wall_seconds, output_bytes and disk_mb are held; run_cell is refused."
)


class RemoteSandbox(Sandbox):
    """Sessions on servers elsewhere: `agentrl serve`, or any server that speaks SandboxFusion's protocol.

    Each session lives on one server, chosen by hashing; if that dies, the session's calls raise SessionLost,
    and new sessions go to the others. Calls are tried again when a connection breaks; the server runs them
    once all the same.

    Args:
        servers: their address, or several; a front is asked which servers are behind it.
        token: what they want to be shown.
        protocol: what they speak.
        patience: seconds for which a busy server is asked again, before ServerBusy is raised.
        slack: seconds that an answer may take beyond the wall limit, the server's queue included.
        connections: open at once, at most; calls under way hold one each.
    """

    name = "remote"

    def __init__(
        self,
        servers: str | Sequence[str] = (),
        *,
        token: str | None = None,
        protocol: Protocol = "agentrl",
        patience: float = 60.0,
        slack: float = 90.0,
        connections: int = 4096,
    ) -> None:
        urls = [servers] if isinstance(servers, str) else list(servers)
        if not urls:
            raise ConfigError("a remote sandbox needs servers=: the address of one, or several")
        if protocol not in get_args(Protocol):
            raise ConfigError(f"protocol must be one of {', '.join(get_args(Protocol))}, not {protocol!r}")
        self._servers = Servers(urls, token, patience, connections)
        self._protocol, self._slack = protocol, slack
        self._sessions: set[Session] = set()
        self._making: set[asyncio.Task[RemoteSession]] = set()
        self._opened = self._closed = False

    @classmethod
    def availability(cls) -> Availability:
        """Whether servers could be asked from here; `check` asks those of a sandbox for real."""
        if importlib.util.find_spec("aiohttp") is None:
            return Availability(False, "the Python module aiohttp is not installed: pip install aiohttp.")
        return Availability(True, "", _ISOLATES, _WEAKER)

    async def check(self) -> Availability:
        """Ask the servers: what they isolate in common, and what is weaker on any of them."""
        try:
            await self._open()
            if self._protocol == "sandbox-fusion":
                return Availability(True, "", _ISOLATES, (*_WEAKER, _FUSION))
            about = [await self._servers.get_json(url, ABOUT) for url in self._servers.ranked("")]
        except (SandboxError, ConfigError) as problem:
            return Availability(False, str(problem))
        common = set.intersection(*(set(map(str, each.get("isolates", ()))) for each in about))
        isolates = [str(each) for each in about[0].get("isolates", ()) if str(each) in common]
        weaker = dict.fromkeys(str(sentence) for each in about for sentence in each.get("weaker", ()))
        return Availability(True, "", tuple(isolates), (*_WEAKER, *weaker))

    async def _open(self) -> None:
        if self._closed:
            raise SessionLost("this remote sandbox is closed")
        ours = self._protocol == "agentrl"
        await self._servers.find(follow_fronts=ours)
        if self._opened:
            return
        if ours:
            about = await self._on_some_server("", lambda server: self._servers.get_json(server, ABOUT))
            if about.get("forks") in ("memory", "files", "none"):
                self.forks = about["forks"]
        else:
            self.forks = "files"
        self._opened = True

    async def _on_some_server(self, key: str, ask: Callable[[str], Awaitable[T]]) -> T:
        """Ask servers, from the first in the order for ``key``, until one can be reached and has room."""
        problem: Unreachable | ServerBusy | None = None
        tried: set[str] = set()
        while servers := [each for each in self._servers.ranked(key) if each not in tried]:
            for server in servers:
                tried.add(server)
                try:
                    return await ask(server)
                except (Unreachable, ServerBusy) as failed:
                    problem = failed
            await self._servers.find(follow_fronts=self._protocol == "agentrl")  # a front replaces the dead
        assert problem is not None
        raise problem

    async def create(self, limits: Limits = DEFAULT_LIMITS, *, preload: Sequence[str] = ()) -> Session:
        await self._open()
        key = secrets.token_hex(16)
        if self._protocol == "sandbox-fusion":
            session = FusionSession(key, self._servers, limits, self._slack, self._sessions.discard)
            self._sessions.add(session)
            return session
        making = asyncio.ensure_future(self._create(key, limits, list(preload)))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_close_unwanted)
            raise

    async def _create(self, key: str, limits: Limits, preload: list[str]) -> RemoteSession:
        message = pack({"id": key, "limits": asdict(limits), "preload": preload})

        async def ask(server: str) -> RemoteSession:
            answer = await self._send(server, SESSIONS, message, _CREATE_SECONDS)
            return self._adopt(_named(answer, server), server, limits, key)

        return await self._on_some_server(key, ask)

    def _adopt(self, secret: str, server: str, limits: Limits, name: str = "") -> RemoteSession:
        session = RemoteSession(
            name or secrets.token_hex(16),
            secret,
            server,
            self._servers,
            limits,
            self._slack,
            self._sessions.discard,
            self._adopt,
        )
        self._sessions.add(session)
        return session

    async def run_program(self, program: Program) -> Result:
        """See `Sandbox.run`. If a server dies in mid-call, another one is asked: nothing of the first try is
        left but the time it took."""
        if self._protocol == "sandbox-fusion":
            return await super().run_program(program)
        await self._open()
        key, seconds = secrets.token_hex(16), program.limits.wall_seconds + self._slack
        header: dict[str, Any] = {"id": key, "seconds": seconds, "language": program.language}
        header |= {"limits": asdict(program.limits), "preload": list(program.preload)}
        header |= {"files": [text_bytes(path).decode() for path in program.files]}
        header |= {"fetch": list(program.fetch)}
        message = pack(header, text_bytes(program.code), program.stdin, *program.files.values())

        async def ask(server: str) -> Result:
            return to_result(*unpacked(await self._send(server, RUN, message, seconds + 1.0), server))

        return await self._on_some_server(key, ask)

    async def _send(self, server: str, path: str, message: bytes, seconds: float) -> bytes:
        try:
            return await self._servers.send("POST", server, path, message, seconds=seconds, headers=_HEADERS)
        except TimeoutError as problem:
            raise SandboxError(f"{server}{path} did not answer in {seconds:.0f} s") from problem

    async def close(self) -> None:
        self._closed = True
        for making in self._making:
            making.add_done_callback(_close_unwanted)
        if self._making:
            await asyncio.wait(self._making)
        await asyncio.gather(*(session.close() for session in list(self._sessions)))
        await self._servers.close()


def _named(answer: bytes, server: str) -> str:
    header, _ = unpacked(answer, server)
    if not isinstance(header.get("session"), str):
        raise SandboxError(f"{server} made a session and does not say which")
    return cast(str, header["session"])


def _close_unwanted(making: asyncio.Task[RemoteSession]) -> None:
    """The caller of `create` went away; what it asked for must not stay."""
    if not making.cancelled() and making.exception() is None:
        making.result().begin_closing()

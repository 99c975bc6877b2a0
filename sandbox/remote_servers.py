"""The servers of a remote sandbox: which of them to ask, and asking so that a retry does no harm."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from agentrl.errors import ConfigError, SandboxError, ServerBusy

from .wire_http import to_error

_TRIES = 4  # of one request, while connections break; every try carries the same call id
_FIRST_WAIT = 0.1  # seconds before the second try; doubles
_AVOID_SECONDS = 5.0  # how long a server that could not be reached is asked last
_KNOWN_SECONDS = 30.0  # after which fronts are asked for their servers again
_CONNECT_SECONDS = 10.0
_ASK_SECONDS = 30.0
_LARGE_BYTES = 256 << 10  # of a request; larger ones are sent piece by piece
_MOST_BYTES = 256 << 20  # of one answer


class Unreachable(SandboxError):
    """A server cannot be reached, or broke off every try of a request."""


class Servers:
    """Addresses and a pool of connections to them. Lives in one event loop.

    Args:
        urls: where the servers are; a front is asked for the servers behind it.
        token: shown to every server.
        patience: seconds for which a busy server is asked again.
        connections: open at once, at most.
    """

    def __init__(self, urls: Sequence[str], token: str | None, patience: float, connections: int) -> None:
        self._given = [url.rstrip("/") for url in urls]
        for url in self._given:
            if not url.startswith(("http://", "https://")):
                raise ConfigError(f"{url!r} is no address of a server; write http://HOST:PORT.")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._patience, self._connections = patience, connections
        self._http: aiohttp.ClientSession | None = None
        self._urls: list[str] = []
        self._known_until = 0.0
        self._avoided: dict[str, float] = {}
        self._finding = asyncio.Lock()

    async def find(self, *, follow_fronts: bool) -> None:
        """Learn which servers there are: now and then, and when one was lost, since a front replaces them.

        Raises:
            Unreachable: none of them answers, nor ever did.
        """
        now = asyncio.get_running_loop().time()
        async with self._finding:
            if self._urls and now < self._known_until:
                return
            self._known_until = now + _KNOWN_SECONDS
            if not follow_fronts:
                self._urls = self._given
                return
            found = await asyncio.gather(*(self._behind(url) for url in self._given), return_exceptions=True)
            problems = [each for each in found if isinstance(each, BaseException)]
            if len(problems) == len(found):
                if self._urls:
                    return
                raise problems[0]
            urls = [
                url
                for given, each in zip(self._given, found, strict=True)
                for url in ([given] if isinstance(each, BaseException) else each)
            ]
            self._urls = list(dict.fromkeys(urls))

    async def _behind(self, url: str) -> list[str]:
        """The servers that a front names, or the server itself."""
        answer = await self.get_json(url, "/v1/servers")
        return [str(each).rstrip("/") for each in answer.get("servers", ())] or [url]

    def ranked(self, key: str) -> list[str]:
        """All servers, in the order in which to ask them about ``key``: by rendezvous hashing, so that most
        keys keep their server when one comes or goes; those that could not be reached just now last."""
        now = asyncio.get_running_loop().time()

        def rank(url: str) -> tuple[bool, bytes]:
            return self._avoided.get(url, 0.0) > now, hashlib.sha256(f"{url} {key}".encode()).digest()

        return sorted(self._urls, key=rank)

    async def get_json(self, server: str, path: str) -> dict[str, Any]:
        """What a server tells about itself.

        Raises:
            Unreachable, SandboxError, ConfigError: it does not.
        """
        try:
            answer = json.loads(await self.send("GET", server, path, seconds=_ASK_SECONDS))
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise SandboxError(f"{server}{path} answered with something that is no JSON object")
        return answer

    async def send(
        self,
        method: str,
        server: str,
        path: str,
        body: bytes = b"",
        *,
        seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of a server's answer. A broken connection is tried again, and so is a busy server, for as
        long as this sandbox has patience; requests are such that the server runs them once all the same.

        Raises:
            Unreachable: the connection broke at every try.
            TimeoutError: there was no answer in ``seconds``.
            AgentRLError: what the server said went wrong.
        """
        loop = asyncio.get_running_loop()
        patient_until, broken = loop.time() + self._patience, 0
        while True:
            try:
                async with asyncio.timeout(seconds):
                    return await self._try(method, server, path, body, headers or {})
            except ServerBusy as busy:
                left = patient_until - loop.time()
                if left <= 0:
                    raise
                await asyncio.sleep(min(busy.retry_after, left))
            except (aiohttp.ClientError, ConnectionError) as problem:
                broken += 1
                if broken == _TRIES:
                    self._avoided[server] = loop.time() + _AVOID_SECONDS
                    self._known_until = 0.0
                    why = str(problem) or type(problem).__name__
                    raise Unreachable(
                        f"the sandbox server {server} cannot be reached: {why}. Does it run?"
                    ) from problem
                await asyncio.sleep(_FIRST_WAIT * 2 ** (broken - 1))

    async def _try(
        self, method: str, server: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> bytes:
        data = io.BytesIO(body) if len(body) > _LARGE_BYTES else body
        async with self._client().request(
            method, server + path, data=data, headers=headers, allow_redirects=False
        ) as response:
            answer = await _read(response, server)
            if response.status >= 300:
                raise to_error(response.status, answer, server)
            return answer

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            connector = aiohttp.TCPConnector(limit=self._connections)
            self._http = aiohttp.ClientSession(headers=self._headers, timeout=timeout, connector=connector)
        return self._http

    async def close(self) -> None:
        """Close every connection."""
        if self._http is not None:
            http, self._http = self._http, None
            await http.close()


async def _read(response: aiohttp.ClientResponse, server: str) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > _MOST_BYTES:
            raise SandboxError(f"{server} answers with more than {_MOST_BYTES >> 20} MiB")
        chunks.append(chunk)
    return b"".join(chunks)

"""What a browser is allowed to see: the site of one episode."""

from __future__ import annotations

import mimetypes
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agentrl import ConfigError

if TYPE_CHECKING:
    from aiohttp import web

HOST = "site.test"


class Site(ABC):
    """The server of one episode. Its browser reaches nothing else.

    Attributes:
        host: the name under which it is reached; one that ends in ``.test``.
        start: path of the page that an episode begins with.
    """

    host = HOST
    start = "/"

    @property
    def origin(self) -> str:
        """Scheme and host of its addresses."""
        return f"http://{self.host}"

    @abstractmethod
    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request of the episode's browser. Runs in the browser's thread and must not block.

        What it raises beside aiohttp's own HTTP exceptions stops the run.
        """


class Folder(Site):
    """The files of a folder.

    Args:
        folder: links that lead out of it are not followed.
        start: the page to begin with.
        host: the name of the server.
    """

    def __init__(self, folder: Path, start: str = "/index.html", host: str = HOST) -> None:
        self.folder, self.start, self.host = folder.resolve(), start, host

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The file."""
        from aiohttp import web

        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        path = self._find(request.path)
        if path is None:
            raise web.HTTPNotFound
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return web.Response(body=path.read_bytes(), content_type=kind)

    def _find(self, address: str) -> Path | None:
        """The file at an address's path, if there is one."""
        try:
            path = (self.folder / address.lstrip("/")).resolve()
            return path if path.is_relative_to(self.folder) and path.is_file() else None
        except (OSError, ValueError):  # no file can have such a name: too long, or with a null byte
            return None


class Upstream(Site):
    """A server of the user's, to which requests are passed on.

    All episodes share it; whatever they change there stays.

    Args:
        url: its address, such as ``http://127.0.0.1:8080/start``.
        seconds: for one answer.
        most_bytes: of one answer.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, url: str, seconds: float = 30.0, most_bytes: int = 16 << 20) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"A browser's site is a URL such as http://127.0.0.1:8080/, not {url!r}.")
        self.target, self.seconds, self.most_bytes = (
            f"{parts.scheme}://{parts.netloc}",
            seconds,
            most_bytes,
        )
        self.start = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the server answers; 502 if it does not."""
        from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, web
        from yarl import URL

        sent = {name: value for name, value in request.headers.items() if name.lower() in _PASSED_ON}
        async with ClientSession(
            cookie_jar=DummyCookieJar(), timeout=ClientTimeout(self.seconds), auto_decompress=False
        ) as http:
            try:
                async with http.request(
                    request.method,
                    URL(self.target + request.raw_path, encoded=True),
                    headers=sent,
                    data=await request.read(),
                    allow_redirects=False,
                ) as found:
                    body = await found.content.read(self.most_bytes + 1)
                    while len(body) <= self.most_bytes and not found.content.at_eof():
                        body += await found.content.read(self.most_bytes + 1 - len(body))
            except (ClientError, TimeoutError) as problem:
                raise web.HTTPBadGateway(text=f"{type(problem).__name__}: {problem}") from problem
        if len(body) > self.most_bytes:
            raise web.HTTPBadGateway(text=f"The answer has more than {self.most_bytes} bytes.")
        answer = web.Response(status=found.status, body=body)
        answer.headers.popall("Content-Type", None)
        for name, value in found.headers.items():
            if name.lower() in _PASSED_BACK:
                answer.headers.add(name, value.replace(self.target, self.origin))
        return answer


_PASSED_ON = {"accept", "accept-language", "content-type", "cookie", "range", "user-agent", "if-none-match",
              "if-modified-since", "x-requested-with"}  # fmt: skip
_PASSED_BACK = {"content-type", "content-encoding", "content-language", "cache-control", "etag",
                "last-modified", "location", "set-cookie", "vary"}  # fmt: skip

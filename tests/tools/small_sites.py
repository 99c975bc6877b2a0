"""Sites for the browser's tests: pages from a dictionary, some of which never answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from aiohttp import web

from agentrl.tools.browser import Site


class Pages(Site):
    """Serves texts by their paths. ``/slow`` never answers, ``/raise`` raises, ``/to?URL`` redirects."""

    def __init__(self, host: str = "site.test", **pages: str) -> None:
        self.host, self.pages = host, pages
        self.asked: list[str] = []
        self.cookies: list[dict[str, str]] = []

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        self.cookies.append(dict(request.cookies))
        if request.path == "/slow":
            await asyncio.Event().wait()
        if request.path == "/raise":
            raise ZeroDivisionError("a bug of the site")
        if request.path == "/to":
            raise web.HTTPFound(request.query_string)
        name = request.path.strip("/") or "start"
        if name not in self.pages:
            raise web.HTTPNotFound(text="nothing here")
        answer = web.Response(text=self.pages[name], content_type="text/html")
        answer.set_cookie("last", name)
        return answer


class Listener:
    """A server of this machine that notes who connects to it."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nreached")
            connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@contextmanager
def listener() -> Iterator[Listener]:
    listening = Listener()
    try:
        yield listening
    finally:
        listening.close()


def chromium() -> list[psutil.Process]:
    """The browsers' processes below this one, apart from bubblewrap."""
    return [process for process in psutil.Process().children(recursive=True) if "chrom" in _name(process)]


def main_processes() -> list[psutil.Process]:
    """The browsers themselves, not what they started."""
    return [process for process in chromium() if not any("--type=" in word for word in process.cmdline())]


def _name(process: psutil.Process) -> str:
    try:
        return process.name() if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""

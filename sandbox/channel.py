"""The connection to a session's supervisor: one frame is sent, one comes back."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from .guest import wire

_ROOM = 1 << 14  # bytes that are kept for answers; a larger one gets memory of its own
_END = "the session closed its connection"


class Channel(asyncio.BufferedProtocol):
    """Frames over a connected socket. Made by :meth:`over`.

    Leaner than asyncio's streams: a call in a running session takes less time than those would.
    """

    def __init__(self, begun: bytes) -> None:
        self._memory = bytearray(_ROOM)
        self._memory[: len(begun)] = begun
        self._filled = len(begun)
        self._transport: asyncio.Transport
        self._paused = self._finishing = False
        self._waiting: asyncio.Future[None] | None = None
        self._closed = asyncio.get_running_loop().create_future()

    @classmethod
    async def over(cls, sock: socket.socket, begun: bytes = b"") -> Channel:
        """Take over a socket that ``begun`` has been read from already."""
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_connection(lambda: cls(begun), sock=sock)
        return channel

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Send a frame, at once or as the other side reads."""
        self._transport.write(wire.encode(header, body))

    async def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next frame. Raises EOFError when the other side is gone, FrameError if it is no frame."""
        while (frame := self._taken()) is None:
            if self._closed.done():
                raise EOFError(_END)
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return frame

    def _taken(self) -> tuple[dict[str, Any], bytes] | None:
        begin = wire.PREFIX.size
        if self._filled < begin:
            return None
        header_size, body_size = wire.lengths(bytes(self._memory[:begin]))
        end = begin + header_size + body_size
        if self._filled < end:
            if len(self._memory) < end:
                self._memory = self._memory[: self._filled] + bytearray(end - self._filled)
            return None
        with memoryview(self._memory) as view:
            header = wire.parse_header(bytes(view[begin : begin + header_size]))
            body = bytes(view[begin + header_size : end])
        rest = self._memory[end : self._filled]
        if rest or len(self._memory) > _ROOM:
            self._memory = rest + bytearray(max(0, _ROOM - len(rest)))
        self._filled = len(rest)
        return header, body

    async def finish(self) -> None:
        """Send no more, and wait until the other side has hung up too."""
        self._finishing, self._filled = True, 0
        self._transport.write_eof()
        self._transport.resume_reading()
        await asyncio.shield(self._closed)

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no such class

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._memory)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled = 0 if self._finishing else self._filled + nbytes
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        if self._filled == len(self._memory):  # an empty buffer would be taken for an end
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set_result(None)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

"""The attached standard streams of a container as frames: bytes in, Docker's multiplexed bytes out."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from .guest import wire

_PIECE = struct.Struct("!B3xI")  # which stream, how many bytes follow
_STDOUT = 1
_KEPT_ERRORS = 4000


class ContainerStream:
    """One connection to the first process of a container. ``errors`` is what it wrote to standard error."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._waiting = bytearray()
        self.errors = ""

    @classmethod
    async def over(cls, sock: socket.socket) -> ContainerStream:
        """Take over a connected socket."""
        sock.setblocking(False)
        return cls(*await asyncio.open_connection(sock=sock))

    async def ask(self, header: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Send a frame and receive one.

        Raises EOFError or ConnectionError when the other side is gone, FrameError if it breaks the protocol.
        """
        self._writer.write(wire.encode(header, body))
        await self._writer.drain()
        header_size, body_size = wire.lengths(await self._exactly(wire.PREFIX.size))
        answer = wire.parse_header(await self._exactly(header_size))
        return answer, await self._exactly(body_size)

    async def _exactly(self, size: int) -> bytes:
        while len(self._waiting) < size:
            try:
                which, length = _PIECE.unpack(await self._reader.readexactly(_PIECE.size))
                data = await self._reader.readexactly(length)
            except asyncio.IncompleteReadError as error:
                raise EOFError("the container closed its streams") from error
            if which == _STDOUT:
                self._waiting += data
            else:
                self.errors = (self.errors + data.decode(errors="replace"))[-_KEPT_ERRORS:]
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        return data

    def abort(self) -> None:
        """Hang up at once, whatever has not been sent or read."""
        self._writer.transport.abort()

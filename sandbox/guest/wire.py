"""The frames that travel between the host and a session's supervisor.

A frame is two big-endian 32-bit lengths, a JSON object, and a body of raw bytes. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

PREFIX = struct.Struct("!II")
MAX_HEADER = 1 << 20
MAX_BODY = 1 << 30


class FrameError(Exception):
    """The bytes are no frame, or one larger than allowed."""


def encode(header: dict[str, Any], body: bytes = b"") -> bytes:
    """One frame as bytes."""
    text = json.dumps(header).encode()
    if len(text) > MAX_HEADER or len(body) > MAX_BODY:
        raise FrameError(f"a frame of {len(text)} + {len(body)} bytes is over the limit")
    return PREFIX.pack(len(text), len(body)) + text + body


def lengths(prefix: bytes) -> tuple[int, int]:
    """Sizes of the header and the body announced by a prefix."""
    header, body = PREFIX.unpack(prefix)
    if header > MAX_HEADER or body > MAX_BODY:
        raise FrameError(f"a frame of {header} + {body} bytes is over the limit")
    return header, body


def parse_header(text: bytes) -> dict[str, Any]:
    """The JSON object of a frame."""
    try:
        header = json.loads(text)
    except ValueError as error:
        raise FrameError(f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise FrameError("the header is not an object")
    return header


def receive(sock: socket.socket) -> tuple[dict[str, Any], bytes]:
    """Read one frame from a blocking socket; EOFError when the other side is gone."""
    header_size, body_size = lengths(_exactly(sock, PREFIX.size))
    return parse_header(_exactly(sock, header_size)), _exactly(sock, body_size)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise EOFError("the other side closed the connection")
        data += piece
    return bytes(data)

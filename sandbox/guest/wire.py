"""The frames that travel between the host and a session's supervisor.

A frame is two big-endian 32-bit lengths, a JSON object, and a body of raw bytes. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import mmap
import socket
import struct
from collections.abc import Callable
from typing import Any

Buffer = bytearray | mmap.mmap

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


def receive(
    sock: socket.socket, room: Callable[[int], Buffer] = bytearray, fds: list[int] | None = None
) -> tuple[dict[str, Any], memoryview]:
    """Read one frame from a blocking socket, its body into memory that ``room`` makes, and a descriptor that
    came with it into ``fds``.

    Raises EOFError when the other side is gone.
    """
    prefix, passed, _, _ = socket.recv_fds(sock, PREFIX.size, 1 if fds is not None else 0)
    if not prefix:
        raise EOFError("the other side closed the connection")
    if fds is not None:
        fds += passed
    rest = PREFIX.size - len(prefix)
    header_size, body_size = lengths(prefix + bytes(_exactly(sock, bytearray(rest), rest)))
    header = parse_header(bytes(_exactly(sock, bytearray(header_size), header_size)))
    return header, _exactly(sock, room(body_size), body_size)


def _exactly(sock: socket.socket, memory: Buffer, size: int) -> memoryview:
    view, got = memoryview(memory)[:size], 0
    while got < size:
        piece = sock.recv_into(view[got:])
        if not piece:
            raise EOFError("the other side closed the connection")
        got += piece
    return view


def send(sock: socket.socket, header: dict[str, Any], *body: bytes | memoryview) -> None:
    """Write one frame to a blocking socket, without a copy of the parts of its body."""
    text = json.dumps(header).encode()
    parts = [memoryview(PREFIX.pack(len(text), sum(map(len, body))) + text)]
    parts += [memoryview(part) for part in body]
    sent = sock.sendmsg(parts)
    for part in parts:
        if sent < len(part):
            sock.sendall(part[sent:])
        sent = max(0, sent - len(part))

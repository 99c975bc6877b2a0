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
_FD = struct.Struct("i")
_ROOM = 1 << 16
_GONE = "the other side closed the connection"


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
    sock: socket.socket,
    memory: Buffer | None = None,
    more: Callable[[int], Buffer] = bytearray,
    fds: list[int] | None = None,
) -> tuple[dict[str, Any], memoryview]:
    """Read one frame from a blocking socket, on which no other follows before it is answered.

    Args:
        memory: where it is read to; one that does not fit has its body in memory that ``more`` makes.
        fds: takes a descriptor that came with it.

    Raises:
        EOFError: the other side is gone.
    """
    memory = bytearray(_ROOM) if memory is None else memory
    view = memoryview(memory)
    got, passed = _receive_some(sock, view, fds is not None)
    if fds is not None:
        fds += passed
    if not got:
        raise EOFError(_GONE)
    got = _fill(sock, view, got, PREFIX.size)
    header_size, body_size = lengths(bytes(view[: PREFIX.size]))
    begin = PREFIX.size + header_size
    if begin > len(view):
        view = _moved(view, got, bytearray(begin))
    got = _fill(sock, view, got, begin)
    header = parse_header(bytes(view[PREFIX.size : begin]))
    if begin + body_size <= len(view):
        _fill(sock, view, got, begin + body_size)
        return header, view[begin : begin + body_size]
    body = _moved(view[begin:got], got - begin, more(body_size))
    _fill(sock, body, got - begin, body_size)
    return header, body[:body_size]


def _receive_some(sock: socket.socket, view: memoryview, with_fds: bool) -> tuple[int, list[int]]:
    if not with_fds:
        return sock.recv_into(view), []
    got, ancillary, _, _ = sock.recvmsg_into([view], socket.CMSG_SPACE(_FD.size))
    return got, [_FD.unpack(data[: _FD.size])[0] for _, _, data in ancillary]


def _moved(view: memoryview, size: int, memory: Buffer) -> memoryview:
    roomier = memoryview(memory)
    roomier[:size] = view[:size]
    return roomier


def _fill(sock: socket.socket, view: memoryview, got: int, wanted: int) -> int:
    """Read until there are ``wanted`` bytes; how many there are."""
    while got < wanted:
        piece = sock.recv_into(view[got:])
        if not piece:
            raise EOFError(_GONE)
        got += piece
    return got


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

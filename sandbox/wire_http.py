"""What travels between a sandbox server and `RemoteSandbox`: one line of JSON, then bytes as they are.

The line is an object whose ``parts`` gives the sizes of the byte strings after it, so files and output travel
without being encoded. Errors are JSON alone, ``{"error": {"kind": …, "message": …, "retry_after": …}}``, with
an HTTP status of 400 or more; ``kind`` is a class of `agentrl.errors`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from agentrl import errors
from agentrl.errors import AgentRLError, ConfigError, SandboxError, ServerBusy, ToolError

from .protocol import Result, Status

CONTENT_TYPE = "application/vnd.agentrl.sandbox"
ABOUT = "/v1/sandbox"
RUN = "/v1/sandbox/run"
SESSIONS = "/v1/sandbox/sessions"

_OTHER_KINDS: Mapping[str, type[AgentRLError]] = MappingProxyType(
    {"Unauthorized": ConfigError, "BadRequest": ConfigError}
)
_NO_SUCH_PATH, _TOO_LARGE = 404, 413


def pack(header: Mapping[str, Any], *parts: bytes) -> bytes:
    """A message."""
    line = json.dumps({**header, "parts": [len(part) for part in parts]})
    return b"".join([line.encode(), b"\n", *parts])


def unpack(message: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """A message's header and parts.

    Raises:
        ValueError: it is none; says why.
    """
    line, newline, body = message.partition(b"\n")
    header = json.loads(line)
    if not newline or not isinstance(header, dict):
        raise ValueError("a message begins with a line that is a JSON object")
    sizes = header.pop("parts", None)
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("'parts' lists the sizes of what follows the first line")
    if sum(sizes) != len(body):
        raise ValueError(f"'parts' adds up to {sum(sizes)} bytes, and {len(body)} came")
    parts, start = [], 0
    for size in sizes:
        parts.append(body[start : start + size])
        start += size
    return header, parts


def pack_result(result: Result) -> bytes:
    """A call's result as a message."""
    header = {
        "status": result.status.value,
        "exit_code": result.exit_code,
        "seconds": result.seconds,
        "truncated": result.truncated,
        "detail": result.detail,
        "files": list(result.files),
    }
    return pack(header, text_bytes(result.stdout), text_bytes(result.stderr), *result.files.values())


def to_result(header: Mapping[str, Any], parts: Sequence[bytes]) -> Result:
    """The result that a message tells of.

    Raises:
        SandboxError: it tells of none.
    """
    try:
        stdout, stderr, *contents = parts
        code = header["exit_code"]
        return Result(
            status=Status(header["status"]),
            stdout=stdout.decode(errors="replace"),
            stderr=stderr.decode(errors="replace"),
            exit_code=None if code is None else int(code),
            seconds=float(header["seconds"]),
            truncated=bool(header["truncated"]),
            detail=str(header["detail"]),
            files=dict(zip(map(str, header["files"]), contents, strict=True)),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise SandboxError(f"a sandbox server answered with an incomplete result: {problem!r}") from problem


def to_error(status: int, body: bytes, server: str) -> AgentRLError:
    """The error that a server's answer tells of; what is no error of ours is the server's own failure."""
    try:
        problem = json.loads(body)["error"]
        kind, message = str(problem["kind"]), str(problem["message"])
    except (KeyError, TypeError, ValueError):
        return SandboxError(f"{server} answered with HTTP status {status}; does it offer sandboxes?")
    if status == _NO_SUCH_PATH and kind == "BadRequest":
        return ConfigError(f"{server} offers no sandboxes; is it `agentrl serve`, with a sandbox of its own?")
    if status == _TOO_LARGE:
        return ToolError(f"this is more than a sandbox server takes at once: {message}")
    if kind == ServerBusy.__name__:
        again = problem.get("retry_after") or 1.0
        return ServerBusy(message, float(again), queue_full=bool(problem.get("queue_full")))
    found = _OTHER_KINDS.get(kind) or getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, AgentRLError):
        return found(message if found is not ConfigError else f"{server}: {message}")
    return SandboxError(f"{server} failed: {kind}: {message}")


def text_bytes(text: str) -> bytes:
    """Text as it travels; what is no valid character becomes a question mark."""
    return text.encode(errors="replace")

"""Sandboxes for callers elsewhere: what `agentrl.sandbox.RemoteSandbox` speaks to.

``GET /v1/sandbox`` describes the backend; ``POST /v1/sandbox/run`` is a stateless call; ``POST
/v1/sandbox/sessions`` makes a session, ``POST …/{session}/{operation}`` uses it and ``DELETE …/{session}``
ends it. Bodies are those of `agentrl.sandbox.wire_http`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agentrl.errors import ConfigError
from agentrl.sandbox import Language, Limits, Result
from agentrl.sandbox.wire_http import ABOUT, CONTENT_TYPE, RUN, SESSIONS, pack, pack_result, unpack
from agentrl.serve.app import refused
from agentrl.serve.sandboxes import SandboxSessions

_LIMITS = TypeAdapter(Limits)
_LONGEST_SECONDS = 86_400.0


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str = Field(min_length=1, max_length=200)
    seconds: float = Field(60.0, gt=0, le=_LONGEST_SECONDS)


class _Made(_Header):
    limits: dict[str, Any] = Field(default_factory=dict)
    preload: list[str] = Field(default_factory=list)


class _Run(_Made):
    language: Language
    files: list[str] = Field(default_factory=list)
    fetch: list[str] = Field(default_factory=list)


class _Code(_Header):
    wall: float | None = Field(None, gt=0, le=_LONGEST_SECONDS)
    argv: list[str] | None = None


class _Put(_Header):
    path: str


class _Get(_Put):
    max_bytes: int = Field(ge=0)


HEADER = TypeVar("HEADER", bound=_Header)
Operation = Callable[[SandboxSessions, str, bytes], Awaitable[bytes]]


def routes(sessions: SandboxSessions) -> list[web.RouteDef]:
    """What offers these sessions."""

    async def about(request: web.Request) -> web.Response:
        """The sandbox backend of this server: its name, what it isolates, what is weaker, what forks copy."""
        sandbox = sessions.sandbox
        found = await asyncio.to_thread(type(sandbox).availability)
        told = {"backend": sandbox.name, "forks": sandbox.forks}
        return web.json_response(told | {"isolates": list(found.isolates), "weaker": list(found.weaker)})

    async def run(request: web.Request) -> web.Response:
        """Run a Python program or bash script in an empty session, of which nothing is left."""
        return _answer(await _run(sessions, await request.read()))

    async def create(request: web.Request) -> web.Response:
        """Make a sandbox session."""
        header, _ = _read(_Made, await request.read(), 0)
        name = await sessions.create(header.id, _limits(header.limits), header.preload)
        return _answer(pack({"session": name}))

    async def use(request: web.Request) -> web.Response:
        """Use a sandbox session: cell, script, exec, put, get or fork."""
        operation = OPERATIONS.get(request.match_info["operation"])
        if operation is None:
            raise refused(404, "NotFound", f"a session can {', '.join(OPERATIONS)}, nothing else")
        return _answer(await operation(sessions, request.match_info["session"], await request.read()))

    async def end(request: web.Request) -> web.Response:
        """End a sandbox session, with all it runs and holds."""
        await sessions.end(request.match_info["session"])
        return web.json_response({})

    return [
        web.get(ABOUT, about),
        web.post(RUN, run),
        web.post(SESSIONS, create),
        web.post(SESSIONS + "/{session}/{operation}", use),
        web.delete(SESSIONS + "/{session}", end),
    ]


async def _run(sessions: SandboxSessions, message: bytes) -> bytes:
    header, parts = _read(_Run, message, None)
    if len(parts) != 2 + len(header.files):
        raise refused(422, "BadRequest", "the parts of a run are the code, stdin and the files")
    code, limits = _text(parts[0]), _limits(header.limits)
    how = {
        "language": header.language,
        "stdin": parts[1],
        "preload": header.preload,
        "files": dict(zip(header.files, parts[2:], strict=True)),
        "fetch": header.fetch,
    }
    return _result(await sessions.run(header.id, code, limits, header.seconds, **how))


async def _cell(sessions: SandboxSessions, name: str, message: bytes) -> bytes:
    header, (code, _) = _read(_Code, message, 2)
    program = _text(code)
    answer = await sessions.perform(
        name,
        header.id,
        lambda session: session.run_cell(program, wall_seconds=header.wall),
        header.seconds,
    )
    return _result(answer)


async def _script(sessions: SandboxSessions, name: str, message: bytes) -> bytes:
    header, (code, stdin) = _read(_Code, message, 2)
    program = _text(code)
    answer = await sessions.perform(
        name,
        header.id,
        lambda session: session.run_script(program, stdin=stdin, wall_seconds=header.wall),
        header.seconds,
    )
    return _result(answer)


async def _exec(sessions: SandboxSessions, name: str, message: bytes) -> bytes:
    header, (script, stdin) = _read(_Code, message, 2)
    command = _text(script) if header.argv is None else header.argv
    answer = await sessions.perform(
        name,
        header.id,
        lambda session: session.exec(command, stdin=stdin, wall_seconds=header.wall),
        header.seconds,
    )
    return _result(answer)


async def _put(sessions: SandboxSessions, name: str, message: bytes) -> bytes:
    header, (data,) = _read(_Put, message, 1)
    await sessions.perform(
        name, header.id, lambda session: session.put(header.path, data), header.seconds, runs_code=False
    )
    return pack({})


async def _get(sessions: SandboxSessions, name: str, message: bytes) -> bytes:
    header, _ = _read(_Get, message, 0)
    data = await sessions.perform(
        name,
        header.id,
        lambda session: session.get(header.path, header.max_bytes),
        header.seconds,
        runs_code=False,
    )
    return pack({}, data if isinstance(data, bytes) else b"")


async def _fork(sessions: SandboxSessions, name: str, message: bytes) -> bytes:
    header, _ = _read(_Header, message, 0)
    return pack({"session": await sessions.fork(name, header.id, header.seconds)})


OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {"cell": _cell, "script": _script, "exec": _exec, "put": _put, "get": _get, "fork": _fork}
)
"""What can be done with a session, by the last word of the path."""


def _read(model: type[HEADER], message: bytes, parts: int | None) -> tuple[HEADER, list[bytes]]:
    """A request's header and its parts; refuses one that has another form."""
    try:
        header, found = unpack(message)
        if parts is not None and len(found) != parts:
            raise ValueError(f"{parts} parts are wanted, not {len(found)}")
        return model.model_validate(header), found
    except ValidationError as problem:
        words = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problem.errors())
        raise refused(422, "BadRequest", words) from None
    except (ValueError, RecursionError) as problem:
        raise refused(422, "BadRequest", str(problem)) from None


def _limits(values: Mapping[str, Any]) -> Limits:
    """Limits as they were asked for. A limit that is not known here must not be left out in silence."""
    unknown = set(values) - set(Limits.__dataclass_fields__)
    if unknown:
        raise ConfigError(f"this server knows no limit called {', '.join(sorted(unknown))}")
    try:
        return _LIMITS.validate_python(dict(values))
    except ValidationError as problem:
        first = problem.errors()[0]
        raise ConfigError(f"Limits.{first['loc'][0]}: {first['msg']}") from None


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _result(answer: object) -> bytes:
    if not isinstance(answer, Result):
        raise refused(422, "BadRequest", "this call id was used for another kind of call")
    return pack_result(answer)


def _answer(message: bytes) -> web.Response:
    return web.Response(body=message, content_type=CONTENT_TYPE)

"""Attacks on what handles untrusted data, as a list of them names their tools.

`agentrl sandbox check` makes them in sessions of any backend. An attempt returns what a model would see of
it, or raises the `ToolError` that it would be told.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from agentrl import ConfigError, ToolError
from agentrl.tools.untrusted.embedded import Engine, query
from agentrl.tools.untrusted.errors import Refused
from agentrl.tools.untrusted.images import Crop, edit
from agentrl.tools.untrusted.table import Caps
from agentrl.tools.untrusted.web import Policy, fetch

if TYPE_CHECKING:
    from agentrl.sandbox import Session

Attempt = Callable[["Session", str, float], Awaitable[str]]
"""Makes an attack in a session, with this code, within so many seconds."""

_SECONDS = 2.0
_MAKE_DATABASE = {
    "sqlite": "import sqlite3\n"
    "c = sqlite3.connect('attempt.db')\n"
    "c.execute('CREATE TABLE t (a, b)')\n"
    "c.executemany('INSERT INTO t VALUES (?, ?)', [(n, str(n)) for n in range(2000)])\n"
    "c.commit()\n",
    "duckdb": "import duckdb\n"
    "c = duckdb.connect('attempt.db')\n"
    "c.execute('CREATE TABLE t AS SELECT range AS a FROM range(2000)')\n",
}
_NUMBER = re.compile(r"(-?)(\d+)(?:\*\*(\d+))?")
_URL = re.compile(r"[a-z]+://[^\s,]+")


async def _has(session: Session, module: str) -> None:
    """Raises ConfigError where the session lacks a library, lest attacks seem refused for want of it."""
    tried = await session.run_script(f"import {module}", wall_seconds=60.0)
    if str(tried.status) != "ok":
        raise ConfigError(f"the sandbox's Python has no module {module!r}, so this cannot be tried")


async def _sqlite(session: Session, code: str, seconds: float) -> str:
    return await _query(session, "sqlite", code)


async def _duckdb(session: Session, code: str, seconds: float) -> str:
    await _has(session, "duckdb")
    return await _query(session, "duckdb", code)


async def _query(session: Session, engine: Engine, code: str) -> str:
    await session.run_script(_MAKE_DATABASE[engine], wall_seconds=60.0)
    caps = Caps(seconds=_SECONDS)
    refused = ""
    for writable in (True, False):
        try:
            table = await query(session, engine, "attempt.db", code, writable=writable, caps=caps)
            return table.text()
        except Refused as problem:
            refused = str(problem)
    raise Refused(refused)


async def _image(session: Session, code: str, seconds: float) -> str:
    """Code runs as it stands, under the session's limits; a box or a file goes to our own handling."""
    await _has(session, "PIL")
    if "import" in code:
        ran = await session.run_script(code, wall_seconds=seconds)
        return f"{ran.stdout}{ran.stderr}"
    sides = [
        int(sign + str(int(base) ** min(int(power or 1), 99))) for sign, base, power in _NUMBER.findall(code)
    ]
    if len(sides) == 4 and "crop" in code:
        make = "from PIL import Image; Image.new('RGB', (10, 10)).save('attempt.png')"
        await session.run_script(make, wall_seconds=60.0)
        left, top, right, bottom = sides
        told = await edit(session, "attempt.png", [Crop(left=left, top=top, right=right, bottom=bottom)])
    else:
        await session.put("attempt", code.encode())
        told = await edit(session, "attempt")
    return str(told)


async def _http(session: Session, code: str, seconds: float) -> str:
    """Each URL of the text is fetched, from the host."""
    urls = _URL.findall(code)
    if not urls:
        raise ConfigError("this is made on a tool server, not on what fetches")
    told = []
    for url in urls:
        try:
            told.append((await fetch(url, Policy(seconds=_SECONDS))).url + " ESCAPED")
        except ToolError as problem:
            told.append(f"BLOCKED {problem}")
    return "\n".join(told)


ATTEMPTS: Mapping[str, Attempt] = MappingProxyType(
    {"sqlite": _sqlite, "duckdb": _duckdb, "image": _image, "http": _http}
)
"""By the name of the tool that an attack goes for."""

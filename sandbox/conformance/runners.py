"""How an attack of each kind is made in a session, by the name of the tool that it goes for."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any

from agentrl.errors import ConfigError, ToolError
from agentrl.sandbox.protocol import Result, Session, Status

from .suite import NotOffered
from .targets import Targets

Runner = Callable[[Session, str, float, Targets], Coroutine[Any, Any, Result]]
"""Makes an attack: in this session, with this code, within so many wall seconds, on these targets. Returns
what the model would see of it; ESCAPED in its output says that the abuse worked."""

_ROUNDS = 100
_LAY_TRAPS = """
python3 .trap.py >/dev/null 2>&1 & trap=$!
until [ -e .begun ]; do sleep 0.02; done
for i in $(seq 20); do kill -0 $trap 2>/dev/null || break; sleep 0.05; done
ls
"""


async def run_python(session: Session, code: str, wall: float, targets: Targets) -> Result:
    """As a cell."""
    return await session.run_cell(code, wall_seconds=wall)


async def run_bash(session: Session, code: str, wall: float, targets: Targets) -> Result:
    """As a command."""
    return await session.exec(code, wall_seconds=wall)


async def run_files(session: Session, code: str, wall: float, targets: Targets) -> Result:
    """Python that lays traps in the working folder, while the host moves files in and out through them."""
    await session.put(".trap.py", b"open('.begun', 'w').close()\n" + code.encode())
    await session.put("r", b"")  # what a race swaps for a link
    started = await session.exec(_LAY_TRAPS, wall_seconds=max(wall, 60.0))
    names = sorted({*started.stdout.split(), "r", "d"})
    word = f"agentrl-{secrets.token_hex(8)}"
    for _ in range(_ROUNDS):
        for name in names:
            data = await _get(session, name)
            if targets.canary_text.encode() in data:
                return _said(started, f"ESCAPED: get of {name} gave a file of the host")
            await _put(session, f"{name}/etc/{word}")
            await _put(session, f"{name}/tmp/{word}")
    outside = await session.exec(f"ls /etc/{word} /tmp/{word} 2>/dev/null", wall_seconds=30.0)
    if outside.stdout:
        return _said(started, f"ESCAPED: put went through a link to {outside.stdout}")
    return _said(started, "BLOCKED")


async def _get(session: Session, name: str) -> bytes:
    try:
        return await session.get(name)
    except ToolError:
        return b""


async def _put(session: Session, name: str) -> None:
    try:
        await session.put(name, b"x")
    except ToolError:
        return


def _said(started: Result, text: str) -> Result:
    return Result(Status.ok, text + "\n", "", 0, started.seconds, False, "")


def attempting(attempt: Callable[[Session, str, float], Awaitable[str]]) -> Runner:
    """The runner of an attack on code of the host's that uses a session.

    Args:
        attempt: makes the attack in a session, with a code, within so many seconds, and returns what a model
            would see of it; a ToolError refuses the attack, a ConfigError says that it cannot be made.
    """

    async def run(session: Session, code: str, wall: float, targets: Targets) -> Result:
        began = time.monotonic()
        try:
            text, status = await attempt(session, code, wall), Status.ok
        except ToolError as problem:
            text, status = f"BLOCKED {type(problem).__name__}: {problem}", Status.error
        except ConfigError as problem:
            raise NotOffered(str(problem)) from None
        return Result(status, text, "", None, time.monotonic() - began, False, "")

    return run


RUNNERS: Mapping[str, Runner] = MappingProxyType({"python": run_python, "bash": run_bash, "files": run_files})

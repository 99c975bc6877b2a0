"""When sessions and what they started begin and end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from agentrl.errors import InfrastructureError, SessionLost
from agentrl.sandbox.protocol import Session, Status

from .suite import Ground, expect, promise


async def _lost(session: Session, after: str) -> None:
    calls: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: session.run_cell("1"),
        lambda: session.exec("true"),
        lambda: session.get("x"),
        lambda: session.put("x", b""),
    )
    for call in calls:
        try:
            result = await call()
        except SessionLost:
            continue
        expect(False, f"calls raise SessionLost after {after}", result)


async def _begun(session: Session) -> asyncio.Task[object]:
    """A cell that never ends, once it has begun: it writes the file that another call waits for."""
    call: asyncio.Task[object] = asyncio.create_task(
        session.run_cell("print('begun', flush=True)\nimport time; time.sleep(3600)")
    )
    await asyncio.sleep(0.2)
    return call


@promise("lifetime")
async def a_closed_session_is_not_a_result(ground: Ground) -> None:
    """Calls on a closed session raise SessionLost; it may be closed twice."""
    session = await ground.sandbox.create()
    await session.run_cell("1")
    await session.close()
    await session.close()
    await _lost(session, "close")


@promise("lifetime")
async def a_closed_sandbox_ends_its_sessions(ground: Ground) -> None:
    """Closing a sandbox ends its sessions and makes it unusable; it may be closed twice."""
    sandbox = await ground.open_another().__aenter__()
    session = await sandbox.create()
    await session.run_cell("1")
    await sandbox.close()
    await sandbox.close()
    await _lost(session, "its sandbox was closed")
    try:
        await sandbox.create()
    except InfrastructureError:
        return
    expect(False, "create raises SessionLost after close")


@promise("lifetime")
async def closing_ends_a_call(ground: Ground) -> None:
    """Closing a session in the middle of a call ends the call with an error, soon."""
    session = await ground.sandbox.create()
    call = await _begun(session)
    await session.close()
    try:
        result = await asyncio.wait_for(call, 30)
    except InfrastructureError:
        return
    expect(getattr(result, "status", None) is Status.session_lost, "the caller is told", result)


@promise("lifetime")
async def a_cancelled_call_ends_its_session_only(ground: Ground) -> None:
    """Cancelling a call ends its session, and no other."""
    async with ground.session() as session, ground.session() as sibling:
        await sibling.run_cell("x = 1")
        call = await _begun(session)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        try:
            result = await session.run_cell("1")
        except SessionLost:
            pass
        else:
            expect(result.status is Status.session_lost, "the session is lost", result)
        kept = await sibling.run_cell("x")
        expect(kept.stdout == "1\n", "its sibling does not notice", kept)


@promise("lifetime")
async def a_background_process_outlives_its_call(ground: Ground) -> None:
    """What a command left in the background goes on, and does not hold up the reply."""
    async with ground.session() as session:
        command = await session.exec("(while sleep 0.05; do echo more >> log; done) & echo done")
        expect(command.status is Status.ok, "the call ends when the command does", command)
        expect(command.stdout.startswith("done"), "with its output", command)
        cell = await session.run_cell("import subprocess; subprocess.Popen(['sleep', '3600']).poll()")
        expect(cell.status is Status.ok, "a cell ends when its code does", cell)
        seen = await session.exec("n=$(wc -l < log 2>/dev/null || echo 0); until [ -s log ] && "
                                  "[ $(wc -l < log) -gt $n ]; do sleep 0.05; done")  # fmt: skip
        expect(seen.status is Status.ok, "the background process goes on", seen)


@promise("lifetime")
async def a_local_server_works_across_calls(ground: Ground) -> None:
    """A server started in one call answers in the next, on localhost."""
    async with ground.session() as session:
        await session.exec("(python3 -S -m http.server 8123 --bind 127.0.0.1 >/dev/null 2>&1 &)")
        fetch = (
            "import urllib.request, time\n"
            "for _ in range(600):\n"
            "    try: print(urllib.request.urlopen('http://localhost:8123/').status); break\n"
            "    except OSError: time.sleep(0.05)"
        )
        result = await session.run_cell(fetch)
        expect(result.stdout == "200\n", "the server answers", result)


@promise("lifetime")
async def an_interpreter_that_dies_between_calls_is_told(ground: Ground) -> None:
    """If the interpreter ended since the last cell, the next one runs afresh and says so."""
    async with ground.session() as session:
        await session.run_cell(
            "import os, threading\nx = 1\n"
            "def end():\n    open('ended', 'w').close(); os._exit(1)\nthreading.Timer(0.3, end).start()"
        )
        await session.exec("until [ -e ended ]; do sleep 0.05; done; sleep 0.2")
        result = await session.run_cell("'x' in globals()")
        if result.stdout != "False\n":  # it was still dying when the cell came
            expect(result.status is Status.crashed, "the end is told", result)
            result = await session.run_cell("'x' in globals()")
        expect(result.stdout == "False\n", "the interpreter is a fresh one", result)
        expect("variables are gone" in result.detail or result.detail == "", "detail tells it", result)

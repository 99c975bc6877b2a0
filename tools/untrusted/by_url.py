"""Any database that SQLAlchemy knows, by URL: an episode has one connection and one transaction, which is
undone.

The connection lives in a helper process of the episode's (`by_url_helper`). There a statement can be stopped
whatever the driver does: if the server's own time limit does not act, a second helper ends the connection on
the server, and the first is killed. Its memory is limited, so that a row larger than any cap takes no more
than that.

How well an episode is held depends on the dialect, see `HELD` there. Everything else that a statement may do
is what the URL's user may: give it few rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Mapping
from importlib import resources
from typing import Any

from pydantic import ValidationError

from agentrl import AgentRLError, ConfigError, InfrastructureError
from agentrl.tools.untrusted.errors import Interrupted, Invalid, Refused, Unanswered
from agentrl.tools.untrusted.table import Caps, Table

GRACE_SECONDS = 1.0
"""After a statement's own limit, so much later it is stopped from outside."""
START_SECONDS = 30.0
"""For a helper to start and connect."""
WAIT_SECONDS = 60.0
"""For a place among the connections."""
CLOSE_SECONDS = 5.0
MEMORY_BYTES = 512 << 20
"""A helper's address space."""
MOST_REPLY_BYTES = 64 << 20
_UNDONE = " All changes made so far are undone."

_KINDS: Mapping[str, type[AgentRLError]] = {
    "refused": Refused,
    "interrupted": Interrupted,
    "invalid": Invalid,
    "infrastructure": InfrastructureError,
    "config": ConfigError,
}


class UrlDatabase:
    """An episode's connection; opened by the first call.

    Args:
        url: as SQLAlchemy takes it.
        places: connections at once, shared by the episodes.
        writable: whether statements may change tables, within the transaction.
    """

    def __init__(self, url: str, places: asyncio.Semaphore, *, writable: bool) -> None:
        self._url, self._places, self._writable = url, places, writable
        self._helper: _Helper | None = None
        self._placed = False
        self._busy = asyncio.Lock()

    async def query(self, statement: str, caps: Caps) -> Table:
        """Run one statement. Each has a savepoint where it may write, so that a failed one changes nothing.

        Raises:
            Refused: it does what it may not, or more than one thing.
            Interrupted: it ran too long or used too much memory. Where the connection had to be ended, the
                episode's earlier changes are gone too, and the message says so.
            Invalid: it is no statement, or it failed.
            InfrastructureError: the server cannot be reached, or the connection was lost.
            ConfigError: the driver is missing, or the URL's user may not connect as it says.
        """
        return await self._ask({"do": "query", "sql": statement}, caps)

    async def schema(self, caps: Caps) -> Table:
        """Tables and views with their columns. Raises as `query` does."""
        return await self._ask({"do": "schema"}, caps)

    async def sample(self, table: str, rows: int, caps: Caps) -> Table:
        """The first rows of a table. Raises as `query` does."""
        return await self._ask({"do": "sample", "table": table, "first": rows}, caps)

    async def close(self) -> None:
        """Undo the transaction and let the connection go."""
        try:
            if self._helper is not None:
                helper, self._helper = self._helper, None
                await helper.close()
        finally:
            if self._placed:
                self._placed = False
                self._places.release()

    async def _ask(self, request: dict[str, Any], caps: Caps) -> Table:
        async with self._busy:
            helper = await self._open(caps)
            try:
                sent = {**request, "caps": [caps.rows, caps.bytes, caps.value_bytes], "seconds": caps.seconds}
                reply = await helper.ask(sent, caps.seconds + GRACE_SECONDS)
                return Table.model_validate_json(json.dumps(reply["answer"]))
            except TimeoutError:
                await self._stop(helper)
                raise Interrupted(
                    f"Interrupted: the statement ran longer than {caps.seconds:g} s, and its connection was "
                    "ended." + (_UNDONE if self._writable else "")
                ) from None
            except EOFError:
                self._helper = None
                if await helper.close() == -signal.SIGKILL:
                    raise InfrastructureError("The process that holds the connection was killed.") from None
                raise Interrupted(
                    "Stopped: the answer takes more memory than it may." + (_UNDONE if self._writable else "")
                ) from None
            except (KeyError, ValidationError):
                raise Unanswered("The answer cannot be read.") from None
            except asyncio.CancelledError:
                helper.kill()  # whoever waited gave up, and the next call must not read this answer
                raise

    async def _open(self, caps: Caps) -> _Helper:
        if not self._placed:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._places.acquire()
            except TimeoutError:
                raise InfrastructureError(
                    f"No connection came free within {WAIT_SECONDS:g} s; give the tool more slots."
                ) from None
            self._placed = True
        if self._helper is not None and self._helper.killed:
            await self._helper.close()
            self._helper = None
        if self._helper is None:
            start = {"url": self._url, "writable": self._writable, "seconds": caps.seconds}
            self._helper = await _Helper.started(start)
        return self._helper

    async def _stop(self, helper: _Helper) -> None:
        """End the connection on the server, then its helper."""
        self._helper = None
        try:
            if helper.number is not None:
                with contextlib.suppress(AgentRLError):
                    second = await _Helper.started({"url": self._url, "end": helper.number, "seconds": 5.0})
                    await second.close()
        finally:
            helper.kill()
            await helper.close()


@functools.cache
def _program() -> str:
    """The helper's; it imports nothing of ours, so that it starts quickly."""
    folder = resources.files("agentrl.tools.untrusted")
    parts = (folder.joinpath("guest", "_rows.py"), folder.joinpath("by_url_helper.py"))
    return "\n".join(part.read_text("utf-8").replace(_FUTURE, "") for part in parts)


_FUTURE = "from __future__ import annotations\n"  # has to come first, if at all


class _Helper:
    """A process that holds a connection."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.number: int | None = None
        self.killed = False

    @classmethod
    async def started(cls, request: Mapping[str, Any]) -> _Helper:
        """Start one and have it connect."""
        pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        # -P: no file in the current folder may be taken for a library.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", _FUTURE + _program(),
            stdin=pipe, stdout=pipe, stderr=nowhere, limit=MOST_REPLY_BYTES,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        helper = cls(process)
        try:
            helper.number = (await helper.ask({**request, "memory": MEMORY_BYTES}, START_SECONDS))["number"]
        except BaseException as problem:
            helper.kill()
            await helper.close()
            if isinstance(problem, TimeoutError | EOFError):
                raise InfrastructureError("The database cannot be reached, or does not answer.") from None
            raise
        return helper

    async def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """One request.

        Raises:
            TimeoutError: there was no answer in time.
            EOFError: the process ended.
            AgentRLError: as it says.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
            reply = json.loads(line) if line.endswith(b"\n") else None
        except (ConnectionError, ValueError):
            raise EOFError from None
        if not isinstance(reply, dict):
            raise EOFError
        if "kind" in reply:
            raise _KINDS[reply["kind"]](reply["message"])
        return reply

    def kill(self) -> None:
        """End it at once."""
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def close(self) -> int:
        """Have it undo and end; kill it if it does not. Returns its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()
        return await self._process.wait()

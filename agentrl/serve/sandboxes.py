"""Sandbox sessions offered to callers elsewhere: their names, lifetimes, and calls that run at most once."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from agentrl.errors import AgentRLError, SandboxError, ServerBusy, SessionLost
from agentrl.sandbox import Limits, Result, Sandbox, Session
from agentrl.serve.admission import Admission
from agentrl.serve.local import SessionLimits
from agentrl.serve.once import Once

logger = logging.getLogger(__name__)
SWEEP_SECONDS = 1.0
_SESSION_ANSWERS = 4  # a session's calls come one at a time, so only the latest can be asked for again

Answer = Result | Session | str | bytes | None
Work = Callable[[Session], Awaitable[Answer]]


@dataclass(slots=True)
class _Open:
    """One session."""

    session: Session
    once: Once[Answer]
    began: float
    used: float
    running: int = 0


class SandboxSessions:
    """The sessions of one sandbox, by unguessable names.

    Args:
        sandbox: makes them; closed by whoever opened it.
        limits: how many there may be, for how long, and how many answers are kept.
        admission: who may run when; files move without its leave.
        clock: seconds from any start.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        limits: SessionLimits | None = None,
        admission: Admission | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sandbox = sandbox
        self._limits, self._admission = limits or SessionLimits(), admission or Admission()
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._gone: OrderedDict[str, str] = OrderedDict()
        self._making = 0
        self._loose: Once[Answer] = Once(self._limits.loose_answers, self._limits.grace_seconds)
        self._background: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.draining = False

    @property
    def count(self) -> int:
        """Sessions that are open."""
        return len(self._open)

    # ---- sessions

    async def create(self, call: str, limits: Limits, preload: Sequence[str]) -> str:
        """The name of a new session.

        Args:
            call: unique; the same one again gets the same session.

        Raises:
            ServerBusy: there is no room for it. As `Sandbox.create` besides.
        """
        self._check_open()

        async def make() -> str:
            async with self._room(), self._admission.place():
                return self._add(await self.sandbox.create(limits, preload=preload))

        return str(await self._loose.do(call, make))

    async def fork(self, name: str, call: str, seconds: float) -> str:
        """The name of a copy of a session. Raises as `create` and `perform` do."""

        async def copy(session: Session) -> str:
            async with self._room():
                return self._add(await session.fork())

        return str(await self.perform(name, call, copy, seconds))

    @asynccontextmanager
    async def _room(self) -> AsyncIterator[None]:
        if len(self._open) + self._making >= self._limits.most:
            raise ServerBusy(
                f"{len(self._open)} sandbox sessions are open, which is all there may be. End some, or wait.",
                self._admission.retry_after(),
                queue_full=True,
            )
        self._making += 1
        try:
            yield
        finally:
            self._making -= 1

    def _add(self, session: Session) -> str:
        name, now = secrets.token_urlsafe(24), self._clock()
        self._open[name] = _Open(session, Once(_SESSION_ANSWERS, self._limits.grace_seconds), now, now)
        if self._timer is None:
            self._sweep_later()
        return name

    async def end(self, name: str, why: str = "it was closed by its caller") -> None:
        """End a session; one that is not there is no error."""
        found = self._open.pop(name, None)
        if found is None:
            return
        self._gone[name] = why
        while len(self._gone) > self._limits.remembered:
            self._gone.popitem(last=False)
        await found.session.close()

    async def sweep(self) -> int:
        """End the sessions whose time is over; how many those were."""
        now, ends = self._clock(), []
        for name, found in self._open.items():
            if not found.running and (why := self._limits.over(found.began, found.used, now)):
                ends.append((name, why))
        for problem in await asyncio.gather(*(self.end(*each) for each in ends), return_exceptions=True):
            if problem is not None:
                logger.warning("a sandbox session could not be ended: %s", problem)
        return len(ends)

    def _sweep_later(self) -> None:
        """While there are sessions, look at their times now and then."""

        def due() -> None:
            self._timer = None
            self._in_background(self.sweep())
            if self._open:
                self._sweep_later()

        self._timer = asyncio.get_running_loop().call_later(SWEEP_SECONDS, due)

    # ---- calls

    async def perform(
        self, name: str, call: str, work: Work, seconds: float, *, runs_code: bool = True
    ) -> Answer:
        """A call of a session, at most once for each ``call``, stopped with its session after ``seconds``.
        One that does not run code, but moves a file, takes no place from those that do, and may be repeated.

        Raises:
            SessionLost: there is no such session.
            ServerBusy: no room to run it now. As the session's methods besides.
        """
        self._check_open()
        found = self._open.get(name)
        if found is None:
            why = self._gone.get(name, "it was never opened here, or long ago")
            raise SessionLost(f"the session is not on this server: {why}")
        return await found.once.do(
            call, lambda: self._perform(name, found, work, seconds, runs_code), keep=runs_code
        )

    async def _perform(self, name: str, found: _Open, work: Work, seconds: float, runs_code: bool) -> Answer:
        found.running += 1
        try:
            async with asyncio.timeout(seconds):
                if not runs_code:
                    return await work(found.session)
                async with self._admission.place():
                    return await work(found.session)
        except TimeoutError:
            self._in_background(self.end(name, f"a call did not end in {seconds:g} s"))
            raise SessionLost(f"the session was ended: a call did not end in {seconds:g} s") from None
        except SessionLost as problem:
            self._in_background(self.end(name, str(problem)))
            raise
        except asyncio.CancelledError:
            self._in_background(self.end(name, "the caller of one of its calls went away"))
            raise
        finally:
            found.running -= 1
            found.used = self._clock()

    async def run(self, call: str, code: str, limits: Limits, seconds: float, **how: Any) -> Answer:
        """A stateless call, at most once for each ``call``; ``how`` is as in `Sandbox.run`.

        Raises:
            SandboxError: it did not end in ``seconds``. ServerBusy, and as `Sandbox.run`, besides.
        """
        self._check_open()

        async def perform() -> Result:
            try:
                async with asyncio.timeout(seconds), self._admission.place():
                    return await self.sandbox.run(code, limits=limits, **how)
            except TimeoutError:
                raise SandboxError(f"the call did not end in {seconds:g} s, and was stopped") from None

        return await self._loose.do(call, perform)

    # ---- the end

    def _check_open(self) -> None:
        if self.draining:
            raise ServerBusy("The server is ending and takes no more calls; nothing was run.", 5.0)

    async def drain(self, seconds: float) -> None:
        """Take nothing new, and wait for what runs, at most so long."""
        self.draining = True
        running = [task for once in self._onces() for task in once.running]
        if running:
            await asyncio.wait(running, timeout=seconds)

    async def close(self) -> None:
        """Stop what runs and end every session. May be called twice."""
        self.draining = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await asyncio.gather(*(once.stop() for once in self._onces()))
        ends = [self.end(name, "the server has ended") for name in list(self._open)]
        for problem in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(problem, AgentRLError):
                logger.warning("a sandbox session could not be ended: %s", problem)

    def _onces(self) -> list[Once[Answer]]:
        return [self._loose, *(found.once for found in self._open.values())]

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

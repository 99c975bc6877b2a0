"""What a check is, what it works with, and how a suite of them is run on a backend."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Self

from agentrl.sandbox.protocol import DEFAULT_LIMITS, Availability, Limits, Sandbox, Session

from .targets import Targets, targets

GROUPS = ("contract", "limits", "lifetime", "concurrency", "cleanliness", "attacks")
PATIENT = Limits(wall_seconds=60, cpu_seconds=60)
"""For code that ends by itself: a slow machine must not stop it."""

_CLOSE_SECONDS = 60.0


class Verdict(StrEnum):
    """How a check ended."""

    passed = "passed"
    failed = "failed"
    not_offered = "not offered"  # the backend declares that it does not make this promise


@dataclass(frozen=True)
class Check:
    """What came of one check. ``detail`` says what was wrong, or why it is not offered; ``seconds`` is wall
    time."""

    name: str
    group: str
    verdict: Verdict
    detail: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong: it passed, or the backend says that it does not offer this."""
        return self.verdict is not Verdict.failed


class Broken(Exception):
    """A promise was not kept; the message says how."""


class NotOffered(Exception):
    """The backend says of itself that it does not make this promise."""


def expect(condition: bool, promise: str, seen: object = None) -> None:
    """Go on only if a part of a promise was kept.

    Raises:
        Broken: with what was promised and what was seen instead.
    """
    if not condition:
        raise Broken(promise if seen is None else f"{promise}; seen: {seen!r:.600}")


@dataclass(frozen=True)
class Promise:
    """Something to keep for every backend: ``text`` states it, ``keep`` tries it and raises if it broke."""

    name: str
    group: str
    text: str
    keep: Callable[[Ground], Awaitable[None]]


def promise(group: str) -> Callable[[Callable[[Ground], Awaitable[None]]], Promise]:
    """Make a function a check: its name names it, its docstring states what is promised."""

    def make(body: Callable[[Ground], Awaitable[None]]) -> Promise:
        return Promise(body.__name__, group, inspect.getdoc(body) or "", body)

    return make


@dataclass
class Ground:
    """What a check works with.

    ``open_another`` makes a sandbox of the same backend; ``sandbox`` is one that all checks share, so that
    what one of them breaks shows in the next; ``unit`` is how many seconds a session with one cell takes
    here, measured at the start; ``settle`` is in how many what was ended has to be gone, and what is kept
    ready be back; ``targets`` are things of this machine that attacks go for; ``escaped`` names
    the attacks that worked.
    """

    open_another: Callable[[], Sandbox]
    sandbox: Sandbox
    availability: Availability
    unit: float
    settle: float
    targets: Targets
    escaped: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def session(
        self, limits: Limits = PATIENT, *, preload: Sequence[str] = ()
    ) -> AsyncIterator[Session]:
        """A session of the shared sandbox, closed at the end."""
        async with await self.sandbox.create(limits, preload=preload) as session:
            yield session


class Suite:
    """Checks of one backend, one after another; an async context manager.

    Args:
        open_backend: makes a sandbox of the backend; called several times.
        check_seconds: after which a check is given up; only a backend that hangs gets there.
        settle_seconds: within which what was ended has to be gone.
    """

    def __init__(
        self,
        open_backend: Callable[[], Sandbox],
        *,
        check_seconds: float = 180.0,
        settle_seconds: float = 20.0,
    ) -> None:
        self._open_backend, self._seconds, self._settle = open_backend, check_seconds, settle_seconds
        self._stack = AsyncExitStack()
        self._ground: Ground | None = None

    async def __aenter__(self) -> Self:
        aims = self._stack.enter_context(targets())
        try:
            self._ground = await self._fresh(aims)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.ground.sandbox.close()
        finally:
            await self._stack.aclose()

    @property
    def ground(self) -> Ground:
        """What the checks work with."""
        if self._ground is None:
            raise RuntimeError("a suite is used inside `async with`")
        return self._ground

    async def _fresh(self, aims: Targets) -> Ground:
        sandbox = await self._opened()
        try:
            availability = await asyncio.to_thread(type(sandbox).availability)
            started = time.monotonic()
            async with await sandbox.create(DEFAULT_LIMITS) as session:
                await session.run_cell("1", wall_seconds=PATIENT.wall_seconds)
        except BaseException:
            await sandbox.close()
            raise
        unit = time.monotonic() - started
        return Ground(self._open_backend, sandbox, availability, unit, self._settle, aims)

    async def _opened(self) -> Sandbox:
        """A sandbox that has begun whatever it keeps ready, so that this is not taken for a leftover."""
        sandbox = await self._open_backend().__aenter__()
        try:
            await sandbox.run("1")
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    async def check(self, promise: Promise) -> Check:
        """Try one promise.

        Raises SandboxError only if after a failure no other sandbox can be opened to go on with.
        """
        declared = self.ground.sandbox.not_offered.get(promise.name)
        if declared is not None and promise.group != "attacks":
            return Check(promise.name, promise.group, Verdict.not_offered, declared, 0.0)
        started = time.monotonic()
        verdict, detail = await self._try(promise)
        seconds = time.monotonic() - started
        if verdict is Verdict.failed:
            await self._replace()
        return Check(promise.name, promise.group, verdict, detail, seconds)

    async def _try(self, promise: Promise) -> tuple[Verdict, str]:
        limit = self._seconds + 50 * self.ground.unit
        try:
            async with asyncio.timeout(limit) as clock:
                await promise.keep(self.ground)
        except NotOffered as reason:
            return Verdict.not_offered, str(reason)
        except Broken as problem:
            return Verdict.failed, str(problem)
        except TimeoutError as problem:
            late = f"the backend did not answer: given up after {limit:.0f} s"
            return Verdict.failed, late if clock.expired() else f"TimeoutError: {problem}"
        except Exception as problem:  # noqa: BLE001  whatever a backend raises unasked breaks its promise
            return Verdict.failed, f"{type(problem).__name__}: {problem}"
        return Verdict.passed, ""

    async def _replace(self) -> None:
        """Go on with a new sandbox, so that one failure is not told many times."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.ground.sandbox.close()
        except Exception:  # noqa: BLE001, S110  it has failed already, and that is told
            pass
        self.ground.sandbox = await self._opened()


async def run_suite(open_backend: Callable[[], Sandbox], promises: Iterable[Promise]) -> AsyncIterator[Check]:
    """Check a backend, promise by promise; yields each outcome as it is known.

    Raises:
        SandboxUnavailable: the backend does not work on this machine.
        SandboxError: it could not make even one session.
    """
    async with Suite(open_backend) as suite:
        for each in promises:
            yield await suite.check(each)

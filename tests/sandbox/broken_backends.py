"""Backends with one defect each, around one that works: what the conformance suite has to find."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

from agentrl.errors import ToolError
from agentrl.sandbox import Availability, Limits, NamespaceSandbox, Result, Sandbox, Session, Status
from agentrl.sandbox.protocol import DEFAULT_LIMITS


class Wrapped(Session):
    """Does what the session inside does."""

    def __init__(self, inner: Session, sandbox: Wrapper) -> None:
        self.inner, self.sandbox = inner, sandbox

    @property
    def id(self) -> str:
        return self.inner.id

    async def run_cell(self, code: str, *, wall_seconds: float | None = None) -> Result:
        return await self.inner.run_cell(code, wall_seconds=wall_seconds)

    async def exec(
        self, command: Sequence[str] | str, *, stdin: bytes = b"", wall_seconds: float | None = None
    ) -> Result:
        return await self.inner.exec(command, stdin=stdin, wall_seconds=wall_seconds)

    async def run_script(self, code: str, *, stdin: bytes = b"", wall_seconds: float | None = None) -> Result:
        return await self.inner.run_script(code, stdin=stdin, wall_seconds=wall_seconds)

    async def put(self, path: str, data: bytes) -> None:
        await self.inner.put(path, data)

    async def get(self, path: str, max_bytes: int = 1 << 20) -> bytes:
        return await self.inner.get(path, max_bytes)

    async def fork(self) -> Session:
        return await self.inner.fork()

    async def close(self) -> None:
        await self.inner.close()


class Wrapper(Sandbox):
    """Does what the namespace backend does."""

    name = "wrapper"
    session: ClassVar[type[Wrapped]] = Wrapped

    def __init__(self) -> None:
        self.inner = NamespaceSandbox()
        self.one: Session | None = None
        self.turn = asyncio.Lock()

    @classmethod
    def availability(cls) -> Availability:
        return NamespaceSandbox.availability()

    async def create(self, limits: Limits = DEFAULT_LIMITS, *, preload: Sequence[str] = ()) -> Session:
        return self.session(await self.inner.create(limits, preload=preload), self)

    async def close(self) -> None:
        await self.inner.close()


class _LyingSession(Wrapped):
    async def run_cell(self, code: str, *, wall_seconds: float | None = None) -> Result:
        return replace(await super().run_cell(code, wall_seconds=wall_seconds), status=Status.ok)


class LiesAboutStatus(Wrapper):
    """Every cell is said to be ok."""

    session = _LyingSession


class _EndlessSession(Wrapped):
    async def run_cell(self, code: str, *, wall_seconds: float | None = None) -> Result:
        return await super().run_cell(code, wall_seconds=3600)


class IgnoresTimeouts(Wrapper):
    """Cells run for as long as they like."""

    session = _EndlessSession


class _LeakingSession(Wrapped):
    async def close(self) -> None:
        return


class Leaks(Wrapper):
    """Closed sessions go on."""

    session = _LeakingSession


class _ForgetfulSession(Wrapped):
    async def run_cell(self, code: str, *, wall_seconds: float | None = None) -> Result:
        return await self.inner.run_script(code, wall_seconds=wall_seconds)


class Forgets(Wrapper):
    """Each cell has a new interpreter."""

    session = _ForgetfulSession


class _FollowingSession(Wrapped):
    async def get(self, path: str, max_bytes: int = 1 << 20) -> bytes:
        result = await self.inner.exec(["head", "-c", str(max_bytes), "--", path])
        if result.status is not Status.ok:
            raise ToolError(result.stderr)
        return result.stdout.encode()


class FollowsLinks(Wrapper):
    """Files are read as guest code would read them."""

    session = _FollowingSession


class _SilentSession(Wrapped):
    async def exec(self, *args: Any, **kwargs: Any) -> Result:
        return replace(await super().exec(*args, **kwargs), truncated=False)

    async def run_cell(self, *args: Any, **kwargs: Any) -> Result:
        return replace(await super().run_cell(*args, **kwargs), truncated=False)


class HidesCuts(Wrapper):
    """Cut output is passed off as whole."""

    session = _SilentSession


class SharesOneSession(Wrapper):
    """All sessions are the same one."""

    async def create(self, limits: Limits = DEFAULT_LIMITS, *, preload: Sequence[str] = ()) -> Session:
        if self.one is None:
            self.one = await self.inner.create(limits, preload=preload)
        return _LeakingSession(self.one, self)


class _QueueingSession(Wrapped):
    async def run_cell(self, code: str, *, wall_seconds: float | None = None) -> Result:
        async with self.sandbox.turn:
            return await super().run_cell(code, wall_seconds=wall_seconds)


class RunsOneCallAtATime(Wrapper):
    """A session waits for the calls of all others."""

    session = _QueueingSession


class _ShowingSession(Wrapped):
    async def run_cell(self, code: str, *, wall_seconds: float | None = None) -> Result:
        result = await super().run_cell(code, wall_seconds=wall_seconds)
        return replace(result, stdout="ESCAPED") if "canary" in code else result


class ShowsTheHost(Wrapper):
    """Cells can read a file of the host."""

    session = _ShowingSession


class Undersells(LiesAboutStatus):
    """Says which promise it does not keep; attacks cannot be declared away."""

    not_offered = MappingProxyType(
        {"an_exception_is_an_error": "all is well", "network-host-loopback": "who cares"}
    )

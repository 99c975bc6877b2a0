"""The sandbox sessions of one episode, shared by the tools that ask for the same limits."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from agentrl.errors import DefinitionError, SandboxUnavailable
from agentrl.registry import nearest
from agentrl.rollout.waiting import finish_quietly, to_the_end

if TYPE_CHECKING:
    from agentrl.sandbox import Limits, Result, Sandbox, Session

CLOSE_SECONDS = 10.0
"""How long a session that a snapshot replaces may take to close."""


class EpisodeSessions:
    """Opens sessions on first use and closes them with the episode.

    Args:
        backend: where they are made; ``None`` where the run has no sandbox.
    """

    def __init__(self, backend: Sandbox | None) -> None:
        self._backend = backend
        self._opening: dict[str, asyncio.Task[Session]] = {}
        self._closed = False

    def seal(self) -> bool:
        """Open no more, for what an episode left behind; whether there are any to close."""
        self._closed = True
        return bool(self._opening)

    async def open(self, options: Mapping[str, Any]) -> Session:
        """The session for these limits.

        A caller that is cancelled does not cancel the creation, which another may wait for.

        Args:
            options: fields of :class:`agentrl.sandbox.Limits`, and ``preload``.

        Raises:
            SandboxUnavailable: the run has no sandbox.
            DefinitionError: an option is unknown.
            SandboxError: the backend failed.
        """
        key = repr(sorted(options.items()))
        if key not in self._opening:
            self._opening[key] = asyncio.ensure_future(self._create(dict(options)))
        return await asyncio.shield(self._opening[key])

    async def close(self, seconds: float) -> None:
        """Close every session, each in at most ``seconds``; failures are logged."""
        opening, self._opening = list(self._opening.values()), {}
        self._closed = True
        await _close_all(opening, seconds)

    async def fork(self) -> EpisodeSessions:
        """Copies of the open sessions, for a snapshot.

        Raises:
            ToolError: what runs in one cannot be copied.
            SandboxError, SessionLost: the backend failed, or the session is gone.
        """
        copies = EpisodeSessions(self._backend)
        try:
            for key, opening in list(self._opening.items()):
                session = await asyncio.shield(opening)
                copies._opening[key] = asyncio.ensure_future(session.fork())
                await asyncio.shield(copies._opening[key])
        except BaseException:
            await to_the_end(copies.close(CLOSE_SECONDS))
            raise
        return copies

    async def take(self, forks: EpisodeSessions) -> None:
        """Close the open sessions and go on with copies of those in ``forks``.

        Raises:
            SandboxError, SessionLost: the backend failed, or a session of ``forks`` is gone; the open
                sessions are as they were then.
        """
        copies = await forks.fork()
        before, self._opening = self._opening, copies._opening
        await _close_all(before.values(), CLOSE_SECONDS)

    async def run(self, code: str, options: Mapping[str, Any], **how: Any) -> Result:
        """Run a program in an empty session of its own.

        Args:
            code: the program.
            options: as with :meth:`open`; raises as that does.
            **how: further arguments of :meth:`agentrl.sandbox.Sandbox.run`.
        """
        backend, limits, preload = self._wanted(dict(options))
        return await backend.run(code, limits=limits, preload=preload, **how)

    async def _create(self, options: dict[str, Any]) -> Session:
        backend, limits, preload = self._wanted(options)
        return await backend.create(limits, preload=preload)

    def _wanted(self, options: dict[str, Any]) -> tuple[Sandbox, Limits, tuple[str, ...]]:
        if self._backend is None or self._closed:
            raise SandboxUnavailable(
                "A tool asked for a sandbox session, and this run has no sandbox. Set sandbox.backend, or "
                "leave the tool out."
            )
        from agentrl.sandbox import Limits

        preload = options.pop("preload", ())
        known = [field.name for field in dataclasses.fields(Limits)]
        for name, value in options.items():
            if name not in known:
                raise DefinitionError(
                    f"A tool asked for a sandbox with {name}={value!r}, which is no limit. "
                    f"{nearest(name, known)}"
                )
        return self._backend, Limits(**options), tuple(preload)


async def _close_all(opening: Collection[asyncio.Task[Session]], seconds: float) -> None:
    """Close what was opened and stop what is being opened, each in at most ``seconds``."""
    for task in opening:
        task.cancel()
    if opening:
        await asyncio.wait(opening, timeout=seconds)
    sessions = [
        task.result() for task in opening if task.done() and not task.cancelled() and not task.exception()
    ]
    await asyncio.gather(*(finish_quietly(s.close(), seconds, "closing a sandbox session") for s in sessions))

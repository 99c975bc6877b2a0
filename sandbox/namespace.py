"""The default backend: Linux namespaces around forks of a warm interpreter; no daemon, no root needed."""

from __future__ import annotations

import asyncio
import platform
import sys
import uuid
from collections.abc import Awaitable, Sequence
from dataclasses import asdict

from agentrl.errors import ConfigError, SandboxError, SandboxUnavailable, SessionLost

from . import cgroups, view
from .namespace_session import NamespaceSession
from .probe import try_once
from .protocol import DEFAULT_LIMITS, Availability, Limits, Sandbox
from .warm import Zygote

_ISOLATES = (
    "files: a read-only view of /usr and the Python environment; a capped private /workspace and /tmp",
    "network: an empty network namespace with a loopback of its own",
    "processes, IPC, host name and users: namespaces of its own",
    "kernel: no capabilities, no_new_privs, a seccomp allowlist of system calls",
    "secrets: an empty environment, no /etc, /root or /home of this machine",
)
_MAX_ZYGOTES = 16
_WAIT_SECONDS = 60.0
_NO_GROUP = (
    "memory is limited per process, not for a session as a whole: no control group can be made ({reason}). "
    "Run as root, or in a cgroup delegated to this user (systemd-run --user --scope -p Delegate=yes ...)."
)
_OLD_KERNEL = "kernels before 5.14 count processes per user, so sessions share one allowance of processes."


class NamespaceSandbox(Sandbox):
    """Sessions in namespaces of their own, forked from one zygote per set of preloaded modules.

    ``max_sessions`` bounds how many are open at once; `create` waits up to a minute for a free place.
    """

    name = "namespace"

    def __init__(self, *, max_sessions: int = 512) -> None:
        if max_sessions < 1:
            raise ConfigError(f"max_sessions must be at least 1, not {max_sessions}")
        self._max_sessions = max_sessions
        self._places = asyncio.Semaphore(max_sessions)
        self._zygotes: dict[tuple[str, ...], Zygote] = {}
        self._starting = asyncio.Lock()
        self._sessions: set[NamespaceSession] = set()
        self._groups: cgroups.Groups | None = None
        self._opened = self._closed = False

    @classmethod
    def availability(cls) -> Availability:
        if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
            return Availability(
                False, f"needs Linux on x86_64 or aarch64, not {sys.platform} {platform.machine()}."
            )
        bwrap = view.find_bwrap()
        if bwrap is None:
            return Availability(False, "bubblewrap (bwrap) is not installed: apt-get install bubblewrap.")
        failure = try_once(bwrap)
        if failure:
            return Availability(False, failure)
        weaker = []
        places, reason = cgroups.find()
        if places is None:
            weaker.append(_NO_GROUP.format(reason=reason))
        if tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2]) < (5, 14):
            weaker.append(_OLD_KERNEL)
        return Availability(True, "", _ISOLATES, tuple(weaker))

    async def create(
        self, limits: Limits = DEFAULT_LIMITS, *, preload: Sequence[str] = ()
    ) -> NamespaceSession:
        _check(limits)
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise SandboxError(
                f"no session ended in {_WAIT_SECONDS:.0f} s, and {self._max_sessions} are open. "
                "Close sessions, or raise max_sessions."
            ) from None
        try:
            return await self._create(limits, tuple(preload))
        except BaseException:
            self._places.release()
            raise

    async def _create(self, limits: Limits, preload: tuple[str, ...]) -> NamespaceSession:
        zygote = await self._zygote(preload)
        name = uuid.uuid4().hex[:16]
        try:
            group = self._groups.create(name, limits) if self._groups is not None else None
        except OSError as error:
            raise SandboxError(f"cannot make a control group for a session: {error}") from error
        session = NamespaceSession(name, limits, zygote, group, self._forget)
        self._sessions.add(session)
        try:
            await session.start(asdict(limits))
        except BaseException:
            self._sessions.discard(session)
            await session.abort()
            raise
        return session

    def _forget(self, session: NamespaceSession) -> None:
        if session in self._sessions:
            self._sessions.discard(session)
            self._places.release()

    async def _zygote(self, preload: tuple[str, ...]) -> Zygote:
        async with self._starting:
            if self._closed:
                raise SessionLost("this sandbox is closed: open another")
            zygote = self._zygotes.get(preload)
            if zygote is not None and zygote.alive:
                return zygote
            if zygote is not None:
                await self._zygotes.pop(preload).stop()
            if len(self._zygotes) >= _MAX_ZYGOTES:
                raise ConfigError(
                    f"more than {_MAX_ZYGOTES} different sets of preloaded modules in one sandbox"
                )
            await self._open()
            bwrap = view.find_bwrap()
            if bwrap is None:
                raise SandboxUnavailable("bubblewrap (bwrap) is not installed: apt-get install bubblewrap.")
            self._zygotes[preload] = await Zygote.start(bwrap, preload)
            return self._zygotes[preload]

    async def _open(self) -> None:
        if not self._opened:
            places, _ = await asyncio.to_thread(cgroups.find)
            if places is not None:
                self._groups = cgroups.Groups(places)
                self._groups.start_janitor()
            self._opened = True

    async def close(self) -> None:
        async with self._starting:
            self._closed = True
            ends: list[Awaitable[None]] = [session.close() for session in list(self._sessions)]
            problems = await asyncio.gather(*ends, return_exceptions=True)
            zygotes, self._zygotes = list(self._zygotes.values()), {}
            problems += await asyncio.gather(*(zygote.stop() for zygote in zygotes), return_exceptions=True)
            if self._groups is not None:
                groups, self._groups = self._groups, None
                await groups.remove()
            for problem in problems:
                if problem is not None:
                    raise problem


def _check(limits: Limits) -> None:
    if limits.network:
        raise SandboxUnavailable(
            "the namespace backend has no network to give: sessions see only a loopback of their own. "
            "Use network=False, and reach the network from a tool outside the sandbox."
        )
    for name, value in asdict(limits).items():
        if name != "network" and not value > 0:
            raise ConfigError(f"Limits.{name} must be more than 0, not {value!r}")

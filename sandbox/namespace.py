"""The default backend: Linux namespaces around forks of a warm interpreter; no daemon, no root needed."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import uuid
from collections.abc import Awaitable, Sequence

from agentrl.errors import ConfigError, SandboxError, SandboxUnavailable, SessionLost

from . import cgroups, view
from .namespace_session import NamespaceSession
from .probe import try_once
from .protocol import DEFAULT_LIMITS, Availability, Limits, Program, Result, Sandbox
from .stateless import Recycler
from .warm import Zygote, ZygoteGone

_ISOLATES = (
    "files: a read-only view of /usr and the Python environment; a capped private /workspace and /tmp",
    "network: an empty network namespace with a loopback of its own",
    "processes, IPC, host name and users: namespaces of its own",
    "kernel: no capabilities, no_new_privs, a seccomp allowlist of system calls",
    "secrets: an empty environment, no /etc, /root or /home of this machine",
)
_MAX_ZYGOTES = 16
_WAIT_SECONDS = 60.0
_CALLS_PER_PROCESSOR = 4
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
    forks = "memory"

    def __init__(self, *, max_sessions: int = 512) -> None:
        if max_sessions < 1:
            raise ConfigError(f"max_sessions must be at least 1, not {max_sessions}")
        self._max_sessions = max_sessions
        self._places = asyncio.Semaphore(max_sessions)
        self._zygotes: dict[tuple[str, ...], Zygote] = {}
        self._retired: set[Zygote] = set()  # they make no more sessions, and end with the last that they made
        self._stopping: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._sessions: set[NamespaceSession] = set()
        self._groups: cgroups.Groups | None = None
        self._opened = self._closed = False
        self._recycler = Recycler(
            self._create_stateless, min(max_sessions, _CALLS_PER_PROCESSOR * (os.cpu_count() or 1))
        )

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
        return await self._create(limits, tuple(preload))

    async def run_program(self, program: Program) -> Result:
        """One stateless call, alone in a session that is empty, of which nothing is left.

        To cost little more than a fork it may get a session that another such call had before, with the same
        limits and preloaded modules. That session's processes have ended, its files are gone, its folders
        are as they were, and no memory of it holds anything that the earlier call said, read or printed. All
        that a call can notice of earlier ones is that numbers go on counting: process ids, inode numbers and
        positions in folders, the folders' change times, the session's age, and counters of the kernel under
        /proc. A session is not used again if a call ended in any other way than ok or error, sent anything
        through the loopback interface, lost a process to the memory limit, or left more than can be removed
        at once.
        """
        _check(program.limits)
        if program.files or program.fetch:
            return await super().run_program(program)
        return await self._recycler.run(program)

    async def _create_stateless(self, limits: Limits, preload: tuple[str, ...]) -> NamespaceSession:
        return await self._create(limits, preload, stateless=True)

    async def _create(
        self, limits: Limits, preload: tuple[str, ...], *, stateless: bool = False
    ) -> NamespaceSession:
        try:
            return await self._create_once(limits, preload, stateless)
        except ZygoteGone:
            return await self._create_once(limits, preload, stateless)  # of another zygote

    async def _create_once(
        self, limits: Limits, preload: tuple[str, ...], stateless: bool
    ) -> NamespaceSession:
        await self._place()
        try:
            zygote = await self._zygote(preload)
            session = self._new(limits, zygote)
        except BaseException:
            self._places.release()
            raise
        await self._begin(session, session.start(stateless=stateless))
        return session

    async def _place(self) -> None:
        if self._places.locked():
            await self._recycler.shrink()
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise SandboxError(
                f"no session ended in {_WAIT_SECONDS:.0f} s, and {self._max_sessions} are open. "
                "Close sessions, or raise max_sessions."
            ) from None

    def _new(self, limits: Limits, zygote: Zygote) -> NamespaceSession:
        name = uuid.uuid4().hex[:16]
        try:
            group = self._groups.create(name, limits) if self._groups is not None else None
        except OSError as error:
            raise SandboxError(f"cannot make a control group for a session: {error}") from error
        return NamespaceSession(name, limits, zygote, group, self)

    async def _begin(self, session: NamespaceSession, start: Awaitable[None]) -> None:
        self._sessions.add(session)  # it holds a place until it is forgotten
        try:
            await start
        except BaseException:
            await session.close()
            raise

    async def branch(self, parent: NamespaceSession) -> NamespaceSession:
        """What `NamespaceSession.fork` asks for."""
        await self._place()
        try:
            session = self._new(parent.limits, parent.zygote)
        except BaseException:
            self._places.release()
            raise
        await self._begin(session, session.start_fork(parent))
        return session

    def forget(self, session: NamespaceSession) -> None:
        if session in self._sessions:
            self._sessions.discard(session)
            self._places.release()
            if session.shell is not None:
                self._await_end(session.shell)
            self._stop_if_spent(session.zygote)

    def _stop_if_spent(self, zygote: Zygote) -> None:
        if zygote in self._retired and all(session.zygote is not zygote for session in self._sessions):
            self._retired.discard(zygote)
            self._await_end(asyncio.create_task(zygote.stop()))

    def _await_end(self, task: asyncio.Task[None]) -> None:
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _zygote(self, preload: tuple[str, ...]) -> Zygote:
        async with self._starting:
            if self._closed:
                raise SessionLost("this sandbox is closed: open another")
            zygote = self._zygotes.get(preload)
            if zygote is not None and zygote.fertile:
                return zygote
            if zygote is not None:
                self._retired.add(self._zygotes.pop(preload))
                self._stop_if_spent(zygote)
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
            await self._recycler.close()
            ends: list[Awaitable[None]] = [session.close() for session in list(self._sessions)]
            problems = await asyncio.gather(*ends, return_exceptions=True)
            zygotes = [*self._zygotes.values(), *self._retired]
            self._zygotes.clear()
            self._retired.clear()
            problems += await asyncio.gather(*self._stopping, return_exceptions=True)
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
    limits.check()

"""No isolation at all: code runs as plain processes of this machine, with the contract of a sandbox.

For trusted code, and to see what isolation costs. It is never chosen unless it is named.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from types import MappingProxyType
from typing import Literal

from agentrl.errors import ConfigError, SessionLost

from .local_session import LocalSession
from .protocol import DEFAULT_LIMITS, Availability, Limits, Sandbox

logger = logging.getLogger(__name__)

_WEAKER = (
    "NOTHING IS ISOLATED: code runs as this user, and can read, change and delete whatever this user can.",
    "The network is open, whatever Limits.network says: secrets that this user can read can be sent away.",
    "Code can see, signal and end other processes of this user, this one included.",
    "Memory and the largest file are limited for each process; the number of processes, the number of files "
    "and the disk space of a session are not limited.",
    "Only the working folder is removed at the end, and processes that hide from being found are left.",
)
_UNLIMITED = "not limited without isolation"


class DangerouslyLocalSandbox(Sandbox):
    """Sessions that are folders and processes of this machine, without isolation. For trusted code only."""

    name = "dangerously_local"
    forks: Literal["memory", "files", "none"] = "files"
    not_offered = MappingProxyType(
        {
            "memory_of_all_processes_together": "memory is limited for each process",
            "disk_space": _UNLIMITED,
            "number_of_files": _UNLIMITED,
            "number_of_processes": _UNLIMITED,
        }
    )

    def __init__(self) -> None:
        self._sessions: set[LocalSession] = set()
        self._closed = False
        logger.warning("The sandbox %s is open. %s", self.name, _WEAKER[0])

    @classmethod
    def availability(cls) -> Availability:
        if sys.platform != "linux":
            return Availability(False, f"needs Linux, not {sys.platform}.")
        return Availability(True, "", (), _WEAKER)

    async def create(self, limits: Limits = DEFAULT_LIMITS, *, preload: Sequence[str] = ()) -> LocalSession:
        if self._closed:
            raise SessionLost("this sandbox is closed: open another")
        limits.check()
        for module in preload:
            if not module.isidentifier() or find_spec(module) is None:
                raise ConfigError(f"preload: there is no module {module!r}")
        return self._open(limits, tuple(preload))

    def _open(self, limits: Limits, preload: tuple[str, ...]) -> LocalSession:
        async def copy(original: LocalSession) -> LocalSession:
            session = self._open(limits, preload)
            try:
                await session.copy_from(original)
            except BaseException:
                await session.close()
                raise
            return session

        session = LocalSession(limits, preload, copy, self._sessions.discard)
        self._sessions.add(session)
        return session

    async def close(self) -> None:
        self._closed = True
        ends = [session.close() for session in list(self._sessions)]
        for problem in await asyncio.gather(*ends, return_exceptions=True):
            if problem is not None:
                raise problem

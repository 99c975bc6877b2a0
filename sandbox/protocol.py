"""What every isolation backend offers: sandboxes that make sessions, which run code, with typed results."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType, TracebackType
from typing import ClassVar, Literal, Self

from agentrl.errors import ConfigError, ToolError

Language = Literal["python", "bash"]
"""What `Sandbox.run` runs."""


FETCHED_BYTES = 8 << 20
"""What a stateless call returns of files, together."""

NOTHING: Mapping[str, bytes] = MappingProxyType({})


class Status(StrEnum):
    """How a call ended."""

    ok = "ok"
    error = "error"  # an exception in a cell, a command's exit code other than 0
    timeout = "timeout"  # over the wall or CPU seconds
    oom = "oom"  # over the memory limit
    output_limit = "output_limit"  # printed far more than the output limit
    crashed = "crashed"  # ended by a signal, or the interpreter exited in the middle of a cell
    session_lost = "session_lost"  # what the code did cost the whole session: files and variables are gone


@dataclass(frozen=True)
class Limits:
    """What one session may use.

    ``wall_seconds`` and ``cpu_seconds`` are per call; CPU time is that of all the session's processes
    together. ``memory_mb`` (MiB) holds for the sum of the session where a control group can be made, files
    included, else for each process. ``processes`` counts threads too. ``disk_mb`` (MiB) and ``inodes`` hold
    for all writable folders together; ``disk_mb`` is also the largest file. ``open_files`` is per process.
    ``output_bytes`` is what is kept of stdout and of stderr, each; a call that prints 16 times as much is
    stopped. ``hide`` names installed packages that the session does not see where it sees this machine's.
    """

    wall_seconds: float = 10.0
    cpu_seconds: float = 10.0
    memory_mb: int = 512
    processes: int = 32
    disk_mb: int = 64
    inodes: int = 4096
    open_files: int = 128
    output_bytes: int = 65_536
    network: bool = False
    hide: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise ConfigError for a limit that makes no sense."""
        for name, value in vars(self).items():
            if name not in ("network", "hide") and not value > 0:
                raise ConfigError(f"Limits.{name} must be more than 0, not {value!r}")
        if not all(name.isidentifier() for name in self.hide):
            raise ConfigError(f"Limits.hide must be names of packages, not {self.hide!r}")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Program:
    """A stateless call: what `Sandbox.run` was asked for."""

    code: str
    language: Language
    stdin: bytes
    limits: Limits
    preload: tuple[str, ...]
    files: Mapping[str, bytes]
    fetch: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What a call gave.

    ``stdout`` and ``stderr`` are decoded as UTF-8 with replacement characters. ``exit_code`` is None if the
    call was stopped, negative (minus the signal) if a signal ended it. ``seconds`` is wall time inside the
    sandbox. ``truncated``: some output was thrown away. ``detail`` says in words what happened; empty if
    nothing did. ``files`` holds those that `Sandbox.run` was asked for and found.
    """

    status: Status
    stdout: str
    stderr: str
    exit_code: int | None
    seconds: float
    truncated: bool
    detail: str
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Availability:
    """Whether a backend can work on this machine.

    ``reason`` says what is missing and what to do about it (empty if ``ok``); ``isolates`` names what is kept
    apart; ``weaker`` lists, in sentences, what is held less strictly here than it could be.
    """

    ok: bool
    reason: str
    isolates: tuple[str, ...] = ()
    weaker: tuple[str, ...] = ()


class Session(ABC):
    """A confined working folder with a Python interpreter that remembers, for one episode.

    One call runs at a time; further ones wait. Cancelling a call ends the session. All methods raise
    `SessionLost` once the session was closed or its sandbox has gone, and `SandboxError` if the sandbox
    misbehaves.
    """

    @property
    @abstractmethod
    def id(self) -> str:
        """A name that is unique in this sandbox."""

    @abstractmethod
    async def run_cell(self, code: str, *, wall_seconds: float | None = None) -> Result:
        """Run Python in the session's interpreter; variables stay for the next cell.

        The value of a last expression that is not None is printed, as in a notebook. After timeout, oom,
        output_limit or crashed the interpreter starts afresh with the next cell, without its variables; the
        files stay. ``wall_seconds`` replaces the session's own limit for this call.
        """

    @abstractmethod
    async def exec(
        self, command: Sequence[str] | str, *, stdin: bytes = b"", wall_seconds: float | None = None
    ) -> Result:
        """Run a program in a new process in the working folder; a string is a bash script.

        The call ends when the program itself does: what it left in the background goes on until the session
        ends, or until a later call is stopped for going over a limit.
        """

    @abstractmethod
    async def run_script(self, code: str, *, stdin: bytes = b"", wall_seconds: float | None = None) -> Result:
        """Run Python as a program of its own, as ``python3 file.py`` would, in the working folder.

        It is ``__main__`` in an interpreter of its own that finds the session's ``preload`` imported; nothing
        is remembered but the files. What it left in the background is as with `exec`.
        """

    @abstractmethod
    async def put(self, path: str, data: bytes) -> None:
        """Write a file, replacing whatever had its name; folders are made. ``path`` is relative to the
        working folder.

        Raises ToolError if the guest's file system refuses: a path that leaves the folder or crosses a link,
        no space.
        """

    @abstractmethod
    async def get(self, path: str, max_bytes: int = 1 << 20) -> bytes:
        """The content of a regular file. ``path`` is relative to the working folder.

        Raises ToolError if there is none, if it crosses a link, or if it has more than ``max_bytes``, holes
        counted.
        """

    @abstractmethod
    async def fork(self) -> Session:
        """A new session that begins as a copy of this one, with the same limits; the two then go apart.

        Files are copied. Variables of the interpreter are too where the sandbox's `forks` is ``memory``;
        programs in the background are not. A session that is never used again is a snapshot.

        Raises SandboxUnavailable where `forks` is ``none``, SandboxError if no session can be made, and
        ToolError if the guest's state cannot be copied, as when its interpreter runs threads.
        """

    @abstractmethod
    async def close(self) -> None:
        """End every process of the session and free all it held. May be called twice."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Sandbox(ABC):
    """A backend at work. Lives in one event loop; an async context manager that closes itself."""

    name: ClassVar[str]
    #: What `Session.fork` copies: files and variables, files alone, or nothing at all.
    forks: Literal["memory", "files", "none"] = "none"
    #: Checks of the conformance suite, by name, that this backend does not claim to pass, and why.
    not_offered: Mapping[str, str] = MappingProxyType({})

    @classmethod
    @abstractmethod
    def availability(cls) -> Availability:
        """Try this backend on this machine, for real. Blocks for a fraction of a second."""

    @abstractmethod
    async def create(self, limits: Limits = DEFAULT_LIMITS, *, preload: Sequence[str] = ()) -> Session:
        """A new session. ``preload`` names modules that its interpreter finds already imported.

        Raises SandboxUnavailable for limits this backend cannot enforce, ConfigError for a module that cannot
        be imported or a limit that makes no sense, SandboxError if no session can be made.
        """

    async def run(
        self,
        code: str,
        *,
        language: Language = "python",
        stdin: bytes = b"",
        limits: Limits = DEFAULT_LIMITS,
        preload: Sequence[str] = (),
        files: Mapping[str, bytes] = NOTHING,
        fetch: Sequence[str] = (),
    ) -> Result:
        """One stateless call: a Python program or bash script in an empty session, of which nothing is left.

        ``files`` are put into the working folder first; of those named by ``fetch``, the result has the ones
        that are there afterwards and fit into FETCHED_BYTES together.

        Raises as `create` does, and ToolError for a file that cannot be put.
        """
        return await self.run_program(
            Program(code, language, stdin, limits, tuple(preload), files, tuple(fetch))
        )

    async def run_program(self, program: Program) -> Result:
        """How `run` is done: for a backend that can do better than a new session to override."""
        async with await self.create(program.limits, preload=program.preload) as session:
            for path, data in program.files.items():
                await session.put(path, data)
            result = await run_in(session, program.code, program.language, program.stdin)
            if result.status is Status.session_lost or not program.fetch:
                return result
            return replace(result, files=await fetched(session, program.fetch))

    @abstractmethod
    async def close(self) -> None:
        """End all sessions and free everything. May be called twice."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def run_in(session: Session, code: str, language: Language, stdin: bytes = b"") -> Result:
    """Run a program in a session: Python as a script, or bash."""
    if language == "python":
        return await session.run_script(code, stdin=stdin)
    return await session.exec(code, stdin=stdin)


async def fetched(session: Session, paths: Sequence[str]) -> dict[str, bytes]:
    """Those of the files that are there, in their order, as long as they fit into FETCHED_BYTES."""
    found: dict[str, bytes] = {}
    left = FETCHED_BYTES
    for path in paths:
        with contextlib.suppress(ToolError):  # not there, too large, or not a file that can be had
            found[path] = await session.get(path, left)
            left -= len(found[path])
    return found

"""One session of `dangerously_local`: a folder, an interpreter and commands, all plain processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agentrl.errors import SandboxError, SessionLost, ToolError

from .guest import files, worker
from .guest.capture import Capture
from .local_processes import Marked, Output, feed, limited, special_files
from .protocol import Limits, Result, Session, Status

T = TypeVar("T")

_TICK = 0.25  # seconds between looks at the CPU time used
_FLOOD = 16  # a call that prints this many times its limit is stopped
_LINGER = 0.2  # seconds for the last output of a command that left processes in the background
_RESTARTED = "the interpreter was restarted; its variables are gone"
_INTERPRETER = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
from guest import worker
del sys.path[0]
for name in sys.argv[3:]: importlib.import_module(name)
channel, sys.argv = int(sys.argv[2]), [""]
worker.prepare_streams()
worker.serve(channel, channel)
"""
_SCRIPT = "exec(compile(open(__import__('sys').argv.pop(), 'rb').read(), 'script.py', 'exec'))"


@dataclass
class _Interpreter:
    process: asyncio.subprocess.Process
    output: Output
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ended: asyncio.Task[int]


@dataclass
class _Outcome:
    status: Status
    detail: str = ""
    exit_code: int | None = None


class LocalSession(Session):
    """One session of a DangerouslyLocalSandbox; made by its `create`."""

    def __init__(
        self,
        limits: Limits,
        preload: tuple[str, ...],
        copy: Callable[[LocalSession], Awaitable[LocalSession]],
        forget: Callable[[LocalSession], None],
    ) -> None:
        self._id, self._limits, self._preload = uuid.uuid4().hex[:16], limits, preload
        self._copy, self._forget = copy, forget
        self._folder = Path(tempfile.mkdtemp(prefix=f"agentrl-local-{self._id}-"))
        self._work = self._folder / "workspace"
        self._work.mkdir()
        self._marked = Marked(f"AGENTRL_LOCAL_SESSION={self._id}")
        self._calling = asyncio.Lock()
        self._interpreter: _Interpreter | None = None
        self._outputs: list[Output] = []
        self._cells = 0
        self._lost = self._note = ""
        self._closing: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self._id

    # ---- calls

    async def run_cell(self, code: str, *, wall_seconds: float | None = None) -> Result:
        return await self._call(lambda capture: self._cell(code, capture, wall_seconds))

    async def exec(
        self, command: Sequence[str] | str, *, stdin: bytes = b"", wall_seconds: float | None = None
    ) -> Result:
        argv = ["/bin/bash", "-c", command] if isinstance(command, str) else list(command)
        if not argv or any("\0" in argument for argument in argv):
            raise ToolError("a command needs a program to run, and no NUL characters")
        return await self._call(lambda capture: self._command(argv, stdin, capture, wall_seconds))

    async def run_script(self, code: str, *, stdin: bytes = b"", wall_seconds: float | None = None) -> Result:
        path = self._folder / f"script-{uuid.uuid4().hex}.py"
        path.write_bytes(code.encode(errors="replace"))
        program = "".join(f"__import__({name!r});" for name in self._preload) + _SCRIPT
        return await self.exec(
            [sys.executable, "-c", program, str(path)], stdin=stdin, wall_seconds=wall_seconds
        )

    async def put(self, path: str, data: bytes) -> None:
        if len(data) > self._limits.disk_mb << 20:
            raise ToolError(f"{path}: {len(data)} bytes do not fit into {self._limits.disk_mb} MB")
        await self._file(path, lambda: files.put(path, data, (str(self._work),)))

    async def get(self, path: str, max_bytes: int = 1 << 20) -> bytes:
        return await self._file(path, lambda: files.get(path, max_bytes, (str(self._work),)))

    async def _file(self, path: str, work: Callable[[], T]) -> T:
        async with self._calling:
            self._usable()
            try:
                return await asyncio.to_thread(work)
            except (OSError, ValueError) as problem:
                raise ToolError(f"{path}: {getattr(problem, 'strerror', None) or problem}") from None

    async def copy_from(self, other: LocalSession) -> None:
        """Begin with the files of another session."""
        async with other._calling:
            other._usable()
            try:
                await asyncio.to_thread(
                    shutil.copytree,
                    other._work,
                    self._work,
                    symlinks=True,
                    ignore=special_files,
                    dirs_exist_ok=True,
                )
            except (OSError, shutil.Error) as problem:
                raise ToolError(f"the session's files cannot be copied: {problem}") from problem

    async def fork(self) -> LocalSession:
        return await self._copy(self)

    # ---- what a call does

    async def _call(self, body: Callable[[Capture], Awaitable[_Outcome]]) -> Result:
        async with self._calling:
            self._usable()
            capture, started = Capture(self._limits.output_bytes), time.monotonic()
            try:
                outcome = await body(capture)
            except asyncio.CancelledError:
                self._lost = "a call was cancelled, and the session is gone with its files and variables"
                await asyncio.to_thread(self._marked.kill)
                raise
            except OSError as problem:
                raise SandboxError(f"session {self._id} cannot start a process: {problem}") from problem
        if self._closing is not None:
            raise SessionLost(f"session {self._id} was closed during a call")
        if capture.truncated:
            cut = f"output cut: {capture.seen} bytes were printed, {capture.limit} of each stream are kept"
            outcome.detail = "; ".join(filter(None, (outcome.detail, cut)))
        out, err = (bytes(kept).decode(errors="replace") for kept in capture.kept)
        seconds = time.monotonic() - started
        return Result(outcome.status, out, err, outcome.exit_code, seconds, capture.truncated, outcome.detail)

    async def _cell(self, code: str, capture: Capture, wall: float | None) -> _Outcome:
        note = await self._bury()
        interpreter = self._interpreter or await self._start_interpreter()
        interpreter.output.drain()  # what background threads printed since the last cell is not this cell's
        interpreter.output.capture = capture
        self._cells += 1
        token, text = os.urandom(worker.TOKEN_SIZE), code.encode(errors="replace")
        interpreter.writer.write(worker.COMMAND.pack(token, self._cells, len(text)) + text)
        heard = asyncio.create_task(_verdict(interpreter.reader, token))
        over = await self._watch({heard, interpreter.ended}, capture, wall)
        interpreter.output.drain()
        interpreter.output.capture = None
        verdict = heard.result() if heard.done() else None
        heard.cancel()
        if over is None and verdict is not None:
            outcome = self._judge(*verdict)
        else:
            code_of_end = await self._end_interpreter()
            outcome = over or _Outcome(Status.crashed, _how(code_of_end), code_of_end)
            outcome.detail += f"; {_RESTARTED}"
        outcome.detail = "; ".join(filter(None, (note, outcome.detail)))
        return outcome

    def _judge(self, letter: bytes, exit_code: int) -> _Outcome:
        if letter == worker.MEMORY:
            return _Outcome(Status.oom, f"MemoryError: the limit is {self._limits.memory_mb} MB", exit_code)
        if letter == worker.OK and exit_code == 0:
            return _Outcome(Status.ok, exit_code=0)
        return _Outcome(Status.error, f"the cell ended with code {exit_code}", exit_code)

    async def _command(
        self, argv: Sequence[str], stdin: bytes, capture: Capture, wall: float | None
    ) -> _Outcome:
        await self._bury()
        output = self._keep(Output())
        output.capture = capture
        process = await self._spawn(argv, output, stdin=asyncio.subprocess.PIPE)
        ended = asyncio.create_task(process.wait())
        feeding = asyncio.create_task(feed(process, stdin))
        over = await self._watch({ended}, capture, wall)
        feeding.cancel()
        if over is not None:
            await self._kill(spared=self._interpreter.process.pid if self._interpreter else 0)
        await ended
        output.drain()
        if output.open:  # something in the background may still print; it does not hold up the reply
            await asyncio.sleep(_LINGER)
            output.drain()
        output.capture = None
        if over is not None:
            return over
        code = ended.result()
        if code < 0:
            return _Outcome(Status.crashed, f"the command was ended by {_signal(code)}", code)
        return (
            _Outcome(Status.error, f"the command ended with code {code}", code)
            if code
            else _Outcome(Status.ok, exit_code=0)
        )

    async def _watch(
        self, done: set[asyncio.Task[Any]], capture: Capture, wall: float | None
    ) -> _Outcome | None:
        """Wait for one of ``done``; what is returned instead says which limit the call went over."""
        deadline = time.monotonic() + (self._limits.wall_seconds if wall is None else wall)
        limit, before = self._limits.cpu_seconds, await asyncio.to_thread(self._marked.cpu_seconds)
        flood = self._limits.output_bytes * _FLOOD
        while True:
            left = deadline - time.monotonic()
            finished, _ = await asyncio.wait(
                done, timeout=max(0.0, min(left, _TICK)), return_when=asyncio.FIRST_COMPLETED
            )
            if finished and not _hung_up(finished):
                return None
            done = done - finished
            if left <= 0:
                return _Outcome(Status.timeout, "killed: over the limit of wall time")
            if capture.seen > flood:
                return _Outcome(Status.output_limit, f"killed after printing more than {flood} bytes")
            if await asyncio.to_thread(self._marked.cpu_seconds) - before > limit:
                return _Outcome(Status.timeout, f"killed after {limit:.1f} s of CPU time")

    # ---- processes

    async def _spawn(
        self, argv: Sequence[str], output: Output, *, stdin: int, fds: Sequence[int] = ()
    ) -> asyncio.subprocess.Process:
        limits = self._limits
        try:
            return await asyncio.create_subprocess_exec(
                *limited(argv, limits.memory_mb, limits.disk_mb, limits.open_files),
                stdin=stdin, stdout=output.writers[0], stderr=output.writers[1], pass_fds=fds,
                cwd=self._work, env=self._environment(), start_new_session=True,
            )  # fmt: skip
        finally:
            output.started()

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}"
        return {
            "PATH": path, "HOME": str(self._work), "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
            "AGENTRL_LOCAL_SESSION": self._id,
        }  # fmt: skip

    async def _start_interpreter(self) -> _Interpreter:
        ours, theirs = socket.socketpair()
        output = self._keep(Output())
        arguments = [str(Path(worker.__file__).parent.parent), str(theirs.fileno()), *self._preload]
        with theirs:
            process = await self._spawn(
                [sys.executable, "-c", _INTERPRETER, *arguments], output,
                stdin=asyncio.subprocess.DEVNULL, fds=[theirs.fileno()],
            )  # fmt: skip
        reader, writer = await asyncio.open_connection(sock=ours)
        self._interpreter = _Interpreter(process, output, reader, writer, asyncio.create_task(process.wait()))
        return self._interpreter

    async def _end_interpreter(self) -> int:
        """End it and all else in the session; its exit code."""
        interpreter = self._interpreter
        assert interpreter is not None
        if not interpreter.ended.done() and interpreter.reader.at_eof():
            with contextlib.suppress(TimeoutError):  # it hung up and is about to exit by itself
                await asyncio.wait_for(asyncio.shield(interpreter.ended), 1.0)
        await self._kill()
        code = await interpreter.ended
        interpreter.writer.close()
        interpreter.output.drain()
        self._interpreter = None
        return code

    async def _bury(self) -> str:
        """If the interpreter has died since the last call, say so once, with the next cell."""
        interpreter = self._interpreter
        if interpreter is None or not interpreter.ended.done():
            note, self._note = self._note, ""
            return note
        self._note = f"{_how(interpreter.ended.result())} since the last cell: {_RESTARTED}"
        interpreter.writer.close()
        self._interpreter = None
        return self._note

    async def _kill(self, spared: int = 0) -> None:
        if not await asyncio.to_thread(self._marked.kill, spared):
            raise SandboxError(f"processes of session {self._id} outlive SIGKILL")

    def _keep(self, output: Output) -> Output:
        """Go on reading what a call's processes print, for as long as one of them lives."""
        self._outputs = [old for old in self._outputs if old.open]
        self._outputs.append(output)
        return output

    # ---- end

    def _usable(self) -> None:
        if self._closing is not None:
            raise SessionLost(f"session {self._id} is closed")
        if self._lost:
            raise SessionLost(f"session {self._id}: {self._lost}")

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._end())
        await asyncio.shield(self._closing)

    async def _end(self) -> None:
        try:
            await self._kill()
            async with self._calling:  # a call that was going on has seen the end of its process
                if self._interpreter is not None:
                    await self._end_interpreter()
            await self._kill()
        finally:
            for output in self._outputs:
                output.close()
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            self._forget(self)


async def _verdict(reader: asyncio.StreamReader, token: bytes) -> tuple[bytes, int] | None:
    """What the interpreter says of its cell; None if it hangs up. Only the cell's own token counts."""
    heard = b""
    while data := await _more(reader):
        heard += data
        at = heard.find(token)
        if at >= 0 and len(heard) >= at + worker.VERDICT.size:
            _, letter, exit_code = worker.VERDICT.unpack_from(heard, at)
            return letter, exit_code
        heard = heard[-worker.VERDICT.size :] if at < 0 else heard[at:]
    return None


async def _more(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65_536)
    except ConnectionError:
        return b""


def _hung_up(finished: set[asyncio.Task[Any]]) -> bool:
    """Whether all that has happened is that the interpreter closed its end: it may still be running."""
    return all(task.result() is None for task in finished)


def _signal(code: int) -> str:
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


def _how(code: int) -> str:
    return (
        f"the interpreter was ended by {_signal(code)}"
        if code < 0
        else f"the interpreter exited with code {code}"
    )

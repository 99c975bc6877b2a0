"""The first process of a session's pid namespace: it starts guest code, watches it, and alone talks to the
host.

Guest code runs in other processes that hold none of its descriptors and may not look into its memory. How a
call ended is decided here from exit codes, clocks and byte counts.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from . import branch, confine, files, processes, script, wire, worker
from .capture import CHUNK, Abandoned, Capture, Feed, Streams
from .clean import Slate, remove_all
from .events import Events
from .forker import Forker
from .interpreter import Interpreter
from .memory import unforked
from .outcome import Outcome, interpreter_end, program_outcome

_TICK = 0.25  # seconds between looks at the CPU time used
#: Seconds in which nobody looks at a call's output or CPU time: most are over by then, and cost much less.
_PATIENCE = 0.05
_FLOOD = 16  # a call that prints this many times its limit is stopped
Answer = tuple[dict[str, Any], Sequence[bytes | memoryview]]  # a header and the parts of a body
_SHELL_TICK = 1.0  # seconds between looks whether the last fork has ended
_NO_COPY = "its interpreter could not be copied"
_RESTARTED = "the interpreter was restarted; its variables are gone"


Finished = Callable[[], Outcome | None]
Begin = Callable[[tuple[int, int, int]], Finished]  # starts a process on these streams; tells how it ended


class Supervisor:
    """Serves one session; ``spec`` holds its limits, its seccomp program, and whether it is ``confined`` by
    that itself, which makes it one for stateless calls."""

    def __init__(self, host: socket.socket, spec: dict[str, Any]) -> None:
        self._host, self._spec, self._limits = host, spec, spec["limits"]
        self._events = Events()
        self._scratch = unforked(CHUNK)
        self._input = unforked(CHUNK)
        self._output = unforked(self._limits["output_bytes"]), unforked(self._limits["output_bytes"])
        self._slate = Slate() if spec.get("confined") else None
        self._interpreter: Interpreter | None = None
        self._forker: Forker | None = None
        self._abandoned = Abandoned()
        self._ended: dict[int, int] = {}
        self._cells = 0
        self._note = ""  # something to tell with the next cell
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._wake, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        self._events.watch(self._wake, self._children_changed, urgent=True)
        self._events.watch(host.fileno(), self._host_speaks, urgent=True)
        self._operations: dict[str, Callable[[dict[str, Any], memoryview], Answer]] = {
            "cell": self._cell, "exec": self._exec, "script": self._script,
            "put": self._put, "get": self._get,
            "fork": self._fork, "lend": self._lend, "adopt": self._adopt,
        }  # fmt: skip
        self._busy = self._forked = False
        self._passed: list[int] = []  # a descriptor that came with the request
        self._bridge: socket.socket | None = None  # to the supervisor of a fork that is being made
        self._invited: Interpreter | None = None

    def serve(self) -> NoReturn:
        """Answer the host's requests until it goes away; the kernel then ends the whole namespace with us."""
        while True:
            self._events.hear(None)

    def _host_speaks(self) -> None:
        if self._busy:
            self._leave()  # nothing is sent during a call, so the host has hung up
        try:
            request, body = wire.receive(self._host, self._input, unforked, self._passed)
        except (EOFError, ConnectionError):
            self._leave()
        self._settle()
        self._busy = True
        header, answer = self._operations[request["op"]](request, body)
        self._busy = False
        if self._ended:
            self._settle()
        try:
            wire.send(self._host, header, *answer)
        except ConnectionError:
            self._leave()

    def _leave(self) -> NoReturn:
        """The host wants no more of us. Forks live in our namespaces, so we stay until the last has ended."""
        if self._forked:
            self._drop_interpreter()
            processes.kill_all(self._forked)
            remove_all()
            self._host.close()
            while processes.has_forks():
                select.select([self._wake], [], [], _SHELL_TICK)
                processes.reap()
        os._exit(0)

    def _children_changed(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a call that came at the same moment has heard of it
            os.read(self._wake, 4096)
        self._ended.update(processes.reap())
        if not self._busy:
            self._settle()

    def _settle(self) -> None:
        """Between calls: forget who ended, but not that the interpreter did."""
        self._ended.update(processes.reap())
        interpreter = self._interpreter
        if interpreter is not None and interpreter.pid in self._ended:
            self._note = f"{interpreter_end(self._ended[interpreter.pid])} since the last cell: {_RESTARTED}"
            self._drop_interpreter()
        self._ended.clear()

    # ---- files

    def _put(self, request: dict[str, Any], body: memoryview) -> Answer:
        try:
            files.put(request["path"], body)
        except (OSError, ValueError) as error:
            return {"refused": _reason(error)}, ()
        return {}, ()

    def _get(self, request: dict[str, Any], body: memoryview) -> Answer:
        try:
            return {}, [files.get(request["path"], request["max_bytes"])]
        except (OSError, ValueError) as error:
            return {"refused": _reason(error)}, ()

    # ---- cells

    def _cell(self, request: dict[str, Any], body: memoryview) -> Answer:
        started = time.monotonic()
        note, self._note = self._note, ""
        interpreter = self._interpreter or self._start_interpreter()
        capture = Capture(self._limits["output_bytes"], self._output)
        interpreter.streams.drain()  # what background threads printed since the last cell is not this cell's
        interpreter.streams.record(capture)
        self._cells += 1
        command = worker.COMMAND.pack(interpreter.begin(), self._cells, len(body))
        feed = Feed(self._events, interpreter.commands, (command, body), close_after=False)
        outcome = self._watch(started, request["wall"], capture, lambda: self._cell_outcome(interpreter))
        feed.stop()
        interpreter.end()
        if interpreter.verdict is None:  # the interpreter is dead or has to die
            processes.kill_all(self._forked)
            interpreter.streams.drain()
            self._drop_interpreter()
            outcome.detail += f"; {_RESTARTED}"
        else:
            interpreter.streams.drain()
            interpreter.streams.record(None)
        outcome.detail = "; ".join(filter(None, (note, outcome.detail)))
        return self._reply(outcome, capture, started)

    def _start_interpreter(self) -> Interpreter:
        interpreter = Interpreter(self._events, self._scratch)
        commands, verdicts, out, err = interpreter.theirs

        def body() -> NoReturn:
            worker.prepare_streams()
            worker.serve(commands, verdicts)

        interpreter.pid = confine.spawn((self._null, out, err), {commands, verdicts}, self._spec, body)
        interpreter.close_theirs()
        self._interpreter = interpreter
        return interpreter

    def _drop_interpreter(self) -> None:
        interpreter, self._interpreter = self._interpreter, None
        if interpreter is not None:
            self._abandoned.add(interpreter.drop())

    def _cell_outcome(self, interpreter: Interpreter) -> Outcome | None:
        if interpreter.verdict is not None:
            letter, exit_code = interpreter.verdict
            if letter == worker.MEMORY:
                return Outcome("oom", f"MemoryError: the limit is {self._limits['memory_mb']} MB", exit_code)
            ok = letter == worker.OK and exit_code == 0
            return (
                Outcome("ok", "", 0)
                if ok
                else Outcome("error", f"the cell ended with code {exit_code}", exit_code)
            )
        if interpreter.pid in self._ended:
            code = self._ended[interpreter.pid]
            return Outcome("crashed", interpreter_end(code), code)
        return None

    # ---- commands

    def _exec(self, request: dict[str, Any], body: memoryview) -> Answer:
        return self._program(request["wall"], body, self._spawning(lambda: _execute(request["argv"])))

    def _script(self, request: dict[str, Any], body: memoryview) -> Answer:
        language, size = request["language"], request["size"]
        if self._slate is None:
            begin = self._spawning(lambda: script.execute(language, size))
            return self._program(request["wall"], body, begin)
        header, answer = self._program(request["wall"], body, self._forking(language, size))
        # only a call that went as most do leaves a session that may serve another
        header["clean"] = header["status"] in ("ok", "error") and self._empty(self._slate)
        return header, answer

    def _empty(self, slate: Slate) -> bool:
        """Leave no process but the idle forker, and no file; False if that is not certain."""
        forker = self._forker
        if forker is None or not forker.alive:
            return False
        processes.reap()
        if not forker.alone() and not processes.kill_all_but(forker.pid, forked=False):
            return False
        self._abandoned.close()
        self._ended.clear()
        return slate.wipe()

    def _spawning(self, run: Callable[[], NoReturn]) -> Begin:
        def begin(streams: tuple[int, int, int]) -> Finished:
            pid = confine.spawn(streams, set(), self._spec, run)
            return lambda: None if pid not in self._ended else program_outcome(self._ended[pid])

        return begin

    def _forking(self, language: str, size: int) -> Begin:
        if self._forker is None:
            self._forker = Forker(self._events, self._spec, self._null)
        forker = self._forker

        def begin(streams: tuple[int, int, int]) -> Finished:
            forker.begin(language, size, streams)
            return lambda: _forked_outcome(forker)

        return begin

    def _program(self, wall: float, body: memoryview, begin: Begin) -> Answer:
        """Run a process until it ends or is over a limit."""
        started = time.monotonic()
        capture = Capture(self._limits["output_bytes"], self._output)
        streams = Streams(self._events, self._scratch)
        streams.record(capture)
        stdin, stdin_writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(stdin_writer, False)
        finished = begin((stdin, *streams.writers))
        streams.close_writers()
        os.close(stdin)
        feed = Feed(self._events, stdin_writer, [body], close_after=True)
        outcome = self._watch(started, wall, capture, finished)
        feed.stop()
        if finished() is None:
            outcome.detail += self._end_command()
        streams.drain()
        self._abandoned.add(streams)
        return self._reply(outcome, capture, started)

    def _end_command(self) -> str:
        """Kill a command, all it started, and what earlier calls left behind; the interpreter is spared."""
        if self._interpreter is not None and processes.kill_all_but(self._interpreter.pid, self._forked):
            return ""
        processes.kill_all(self._forked)
        lost = self._interpreter is not None
        self._drop_interpreter()
        return f"; {_RESTARTED}" if lost else ""

    # ---- forks: `branch` says how

    def _fork(self, request: dict[str, Any], body: memoryview) -> Answer:
        """Give the zygote, at the other end of the bridge that came with this, the way into our session."""
        self._forked = True
        self._bridge = socket.socket(fileno=self._passed.pop())
        branch.show_the_way(self._bridge)
        if self._interpreter is None:
            self._bridge.close()
        return {"interpreter": self._interpreter is not None}, ()

    def invite(self, bridge: socket.socket) -> None:
        """As a fork: have the parent's interpreter, should it have one, send us a copy of itself."""
        self._invited = Interpreter(self._events, self._scratch)
        with bridge, contextlib.suppress(BrokenPipeError):  # a parent without an interpreter has hung up
            branch.invite(bridge, self._invited.theirs)
        self._invited.close_theirs()

    def _lend(self, request: dict[str, Any], body: memoryview) -> Answer:
        """Have our interpreter copy itself into the fork."""
        interpreter, bridge = self._interpreter, self._bridge
        if interpreter is None or bridge is None:
            return {"refused": _NO_COPY}, ()
        command = worker.COMMAND.pack(interpreter.begin(), worker.FORK, 0)
        try:
            with bridge:
                branch.lend(bridge, interpreter.commands, command)
        except OSError as error:
            return {"refused": f"{_NO_COPY}: {_reason(error)}"}, ()
        capture = Capture(self._limits["output_bytes"], self._output)
        self._watch(time.monotonic(), request["wall"], capture, lambda: self._cell_outcome(interpreter))
        interpreter.end()
        letter, _ = interpreter.verdict or (worker.ERROR, 0)
        if letter == worker.THREADS:
            return {"refused": "its interpreter runs threads, which a copy would not have"}, ()
        return ({} if letter == worker.OK else {"refused": _NO_COPY}), ()

    def _adopt(self, request: dict[str, Any], body: memoryview) -> Answer:
        """As a fork: look at the interpreter that has come, and take it for ours."""
        invited, self._invited = self._invited, None
        if invited is None or not request["interpreter"]:
            if invited is not None:
                invited.drop().close()
            return {}, ()
        capture = Capture(self._limits["output_bytes"], self._output)
        here = Outcome("ok", "")
        self._watch(time.monotonic(), request["wall"], capture, lambda: here if invited.spoke else None)
        try:
            invited.pid = branch.arrived()
        except (OSError, KeyError, ValueError) as error:
            processes.kill_all(False)
            return {"refused": f"{_NO_COPY}: {_reason(error)}"}, ()
        self._interpreter = invited
        return {}, ()

    # ---- both

    def _watch(
        self, started: float, wall: float, capture: Capture, finished: Callable[[], Outcome | None]
    ) -> Outcome:
        """Let the call run until it is finished or over a limit."""
        patience = min(wall, _PATIENCE)
        while (left := started + patience - time.monotonic()) > 0:
            outcome = finished()
            if outcome is not None:
                return outcome
            self._events.hear(left, urgent=True)
        cpu_limit = self._limits["cpu_seconds"]
        cpu_before = self._cpu()
        next_tick = time.monotonic() + _TICK
        flood = self._limits["output_bytes"] * _FLOOD
        while True:
            outcome = finished()
            if outcome is not None:
                return outcome
            now = time.monotonic()
            if now - started >= wall:
                return Outcome("timeout", f"killed after {wall:.1f} s of wall time")
            if capture.seen > flood:
                return Outcome("output_limit", f"killed after printing more than {flood} bytes")
            if now >= next_tick:
                next_tick = now + _TICK
                if self._cpu() - cpu_before > cpu_limit:
                    return Outcome("timeout", f"killed after {cpu_limit:.1f} s of CPU time")
            self._events.hear(max(0.0, min(started + wall, next_tick) - now))

    def _cpu(self) -> float:
        return processes.cpu_seconds(self._forked)

    def _reply(self, outcome: Outcome, capture: Capture, started: float) -> Answer:
        detail = outcome.detail
        if capture.truncated:
            cut = f"output cut: {capture.seen} bytes were printed, {capture.limit} of each stream are kept"
            detail = "; ".join(filter(None, (detail, cut)))
        kept = capture.kept
        header = {
            "status": outcome.status,
            "detail": detail,
            "exit_code": outcome.exit_code,
            "seconds": time.monotonic() - started,
            "truncated": capture.truncated,
            "stdout_bytes": len(kept[0]),
        }
        return header, kept


def _forked_outcome(forker: Forker) -> Outcome | None:
    if forker.exit_code is not None:
        return program_outcome(forker.exit_code)
    return None if forker.alive else Outcome("crashed", "the program killed the process that had started it")


def _execute(argv: list[str]) -> NoReturn:
    try:
        os.execvp(argv[0], argv)
    except (OSError, ValueError) as error:
        os.write(2, f"{argv[0]}: {_reason(error)}\n".encode(errors="replace"))
    os._exit(127)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)

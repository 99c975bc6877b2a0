"""The first process of a session's pid namespace: it starts guest code, watches it, and alone talks to the
host.

Guest code runs in other processes that hold none of its descriptors and may not look into its memory. How a
call ended is decided here from exit codes, clocks and byte counts.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from . import confine, files, processes, wire, worker
from .capture import Abandoned, Capture, Feed, Streams

_TICK = 0.25  # seconds between looks at the CPU time used
_FLOOD = 16  # a call that prints this many times its limit is stopped
_RESTARTED = "the interpreter was restarted; its variables are gone"


@dataclass
class Interpreter:
    """The process that runs cells, and our ends of its pipes."""

    pid: int
    streams: Streams
    commands: int
    verdicts: int
    heard: bytearray = field(default_factory=bytearray)


@dataclass
class Outcome:
    """How a call ended."""

    status: str
    detail: str
    exit_code: int | None = None


class Supervisor:
    """Serves one session; ``spec`` holds its limits, environment, seccomp program and search path."""

    def __init__(self, host: socket.socket, spec: dict[str, Any]) -> None:
        self._host, self._spec, self._limits = host, spec, spec["limits"]
        self._selector = selectors.DefaultSelector()
        self._interpreter: Interpreter | None = None
        self._abandoned = Abandoned()
        self._ended: dict[int, int] = {}
        self._cells = 0
        self._note = ""  # something to tell with the next cell
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._wake, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._children_changed)
        self._selector.register(host, selectors.EVENT_READ, self._host_speaks)
        self._operations: dict[str, Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]] = {
            "cell": self._cell, "exec": self._exec, "put": self._put, "get": self._get,
        }  # fmt: skip
        self._busy = False

    def serve(self) -> NoReturn:
        """Answer the host's requests until it goes away; the kernel then ends the whole namespace with us."""
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _host_speaks(self) -> None:
        if self._busy:
            os._exit(0)  # nothing is sent during a call, so the host has hung up
        try:
            request, body = wire.receive(self._host)
        except (EOFError, ConnectionError):
            os._exit(0)
        self._settle()
        self._busy = True
        header, answer = self._operations[request["op"]](request, body)
        self._busy = False
        self._settle()
        try:
            self._host.sendall(wire.encode(header, answer))
        except ConnectionError:
            os._exit(0)

    def _children_changed(self) -> None:
        os.read(self._wake, 4096)
        self._ended.update(processes.reap())
        if not self._busy:
            self._settle()

    def _settle(self) -> None:
        """Between calls: forget who ended, but not that the interpreter did."""
        self._ended.update(processes.reap())
        interpreter = self._interpreter
        if interpreter is not None and interpreter.pid in self._ended:
            self._note = f"{_how(self._ended[interpreter.pid])} since the last cell: {_RESTARTED}"
            self._drop_interpreter()
        self._ended.clear()

    # ---- files

    def _put(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            files.put(request["path"], body)
        except (OSError, ValueError) as error:
            return {"refused": _reason(error)}, b""
        return {}, b""

    def _get(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            return {}, files.get(request["path"], request["max_bytes"])
        except (OSError, ValueError) as error:
            return {"refused": _reason(error)}, b""

    # ---- cells

    def _cell(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        started = time.monotonic()
        note, self._note = self._note, ""
        interpreter = self._interpreter or self._start_interpreter()
        capture = Capture(self._limits["output_bytes"])
        interpreter.streams.drain()  # what background threads printed since the last cell is not this cell's
        interpreter.streams.record(capture)
        self._cells += 1
        token = os.urandom(worker.TOKEN_SIZE)
        command = worker.COMMAND.pack(token, self._cells, len(body)) + body
        feed = Feed(self._selector, interpreter.commands, command, close_after=False)
        outcome = self._watch(
            started, request["wall"], capture, lambda: self._cell_outcome(interpreter, token)
        )
        feed.stop()
        if self._verdict(interpreter, token) is None:  # the interpreter is dead or has to die
            processes.kill_all()
            interpreter.streams.drain()
            self._drop_interpreter()
            outcome.detail += f"; {_RESTARTED}"
        else:
            interpreter.streams.drain()
            interpreter.streams.record(None)
        outcome.detail = "; ".join(filter(None, (note, outcome.detail)))
        return self._reply(outcome, capture, started)

    def _start_interpreter(self) -> Interpreter:
        streams = Streams(self._selector)
        commands, commands_writer = os.pipe2(os.O_CLOEXEC)
        verdicts, verdicts_writer = os.pipe2(os.O_CLOEXEC)

        def body() -> NoReturn:
            worker.prepare_streams()
            worker.serve(commands, verdicts_writer)

        keep = {commands, verdicts_writer}
        pid = confine.spawn((self._null, *streams.writers), keep, self._spec, body)
        streams.close_writers()
        os.close(commands)
        os.close(verdicts_writer)
        os.set_blocking(verdicts, False)
        self._interpreter = interpreter = Interpreter(pid, streams, commands_writer, verdicts)
        self._selector.register(verdicts, selectors.EVENT_READ, lambda: self._hear(interpreter))
        return interpreter

    def _drop_interpreter(self) -> None:
        interpreter, self._interpreter = self._interpreter, None
        if interpreter is not None:
            if interpreter.verdicts in self._selector.get_map():
                self._selector.unregister(interpreter.verdicts)
            os.close(interpreter.verdicts)
            os.close(interpreter.commands)
            self._abandoned.add(interpreter.streams)

    def _hear(self, interpreter: Interpreter) -> None:
        """Read the verdict pipe. Guest code can write there too, so only the cell's own token counts."""
        try:
            data = os.read(interpreter.verdicts, 65_536)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(interpreter.verdicts)
        interpreter.heard += data
        if not self._busy:
            interpreter.heard.clear()

    def _verdict(self, interpreter: Interpreter, token: bytes) -> tuple[bytes, int] | None:
        at = interpreter.heard.find(token)
        if at < 0 or len(interpreter.heard) < at + worker.VERDICT.size:
            del interpreter.heard[: -worker.VERDICT.size]  # noise
            return None
        _, letter, exit_code = worker.VERDICT.unpack_from(interpreter.heard, at)
        return letter, exit_code

    def _cell_outcome(self, interpreter: Interpreter, token: bytes) -> Outcome | None:
        verdict = self._verdict(interpreter, token)
        if verdict is not None:
            letter, exit_code = verdict
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
            return Outcome("crashed", _how(code), code)
        return None

    # ---- commands

    def _exec(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        started = time.monotonic()
        argv = request["argv"]
        capture = Capture(self._limits["output_bytes"])
        streams = Streams(self._selector)
        streams.record(capture)
        stdin, stdin_writer = os.pipe2(os.O_CLOEXEC)
        pid = confine.spawn((stdin, *streams.writers), set(), self._spec, lambda: _execute(argv))
        streams.close_writers()
        os.close(stdin)
        feed = Feed(self._selector, stdin_writer, body, close_after=True)
        outcome = self._watch(started, request["wall"], capture, lambda: self._exec_outcome(pid))
        feed.stop()
        if pid not in self._ended:
            outcome.detail += self._end_command()
        streams.drain()
        self._abandoned.add(streams)
        return self._reply(outcome, capture, started)

    def _exec_outcome(self, pid: int) -> Outcome | None:
        code = self._ended.get(pid)
        if code is None:
            return None
        if code < 0:
            return Outcome("crashed", f"the command was ended by {_signal(code)}", code)
        return Outcome("error", f"the command ended with code {code}", code) if code else Outcome("ok", "", 0)

    def _end_command(self) -> str:
        """Kill a command, all it started, and what earlier calls left behind; the interpreter is spared."""
        if self._interpreter is not None and processes.kill_all_but(self._interpreter.pid):
            return ""
        processes.kill_all()
        lost = self._interpreter is not None
        self._drop_interpreter()
        return f"; {_RESTARTED}" if lost else ""

    # ---- both

    def _watch(
        self, started: float, wall: float, capture: Capture, finished: Callable[[], Outcome | None]
    ) -> Outcome:
        """Let the call run until it is finished or over a limit."""
        cpu_limit, cpu_before = self._limits["cpu_seconds"], processes.cpu_seconds()
        next_tick = started + _TICK
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
                if processes.cpu_seconds() - cpu_before > cpu_limit:
                    return Outcome("timeout", f"killed after {cpu_limit:.1f} s of CPU time")
            for key, _ in self._selector.select(min(started + wall, next_tick) - now):
                key.data()

    def _reply(self, outcome: Outcome, capture: Capture, started: float) -> tuple[dict[str, Any], bytes]:
        detail = outcome.detail
        if capture.truncated:
            cut = f"output cut: {capture.seen} bytes were printed, {capture.limit} of each stream are kept"
            detail = "; ".join(filter(None, (detail, cut)))
        out, err = capture.kept
        header = {
            "status": outcome.status,
            "detail": detail,
            "exit_code": outcome.exit_code,
            "seconds": time.monotonic() - started,
            "truncated": capture.truncated,
            "stdout_bytes": len(out),
        }
        return header, bytes(out + err)


def _execute(argv: list[str]) -> NoReturn:
    try:
        os.execvp(argv[0], argv)
    except (OSError, ValueError) as error:
        os.write(2, f"{argv[0]}: {_reason(error)}\n".encode(errors="replace"))
    os._exit(127)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


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

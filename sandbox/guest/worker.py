"""The interpreter that runs a session's cells, one after another, in one namespace.

Everything here shares a process with untrusted code, so nothing it says is believed beyond "my cell ended,
like so".
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import linecache
import os
import signal
import socket
import struct
import sys
import traceback
import types
from collections.abc import Callable, Sized
from typing import Any, NoReturn

from . import branch

_execute, _length = exec, len  # guest code may rebind the originals
TOKEN_SIZE = 16
COMMAND = struct.Struct(f"!{TOKEN_SIZE}sII")  # token, cell number, bytes of code that follow
VERDICT = struct.Struct(f"!{TOKEN_SIZE}scB")  # token, one of the letters below, exit code
OK, ERROR, MEMORY, THREADS = b"K", b"E", b"M", b"T"
FORK = 0  # a cell number: descriptors follow, and a copy of this process goes to where they lead


def read_exactly(
    fd: int,
    size: int,
    read: Callable[[int, int], bytes] = os.read,
    leave: Callable[[int], NoReturn] = os._exit,
    length: Callable[[Sized], int] = len,
    join: Callable[[list[bytes]], bytes] = b"".join,
) -> bytes:
    """That many bytes. The defaults are there because guest code may rebind the originals."""
    pieces: list[bytes] = []
    while size:
        piece = read(fd, size)
        if not piece:
            leave(0)  # the supervisor is gone or wants us gone
        pieces.append(piece)
        size -= length(piece)
    return join(pieces)


def serve(commands: int, verdicts: int) -> NoReturn:
    """Run cells read from one pipe and report each on the other, until either closes."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.path.insert(0, "")
    owner = os.getpid()
    report, leave, getpid = os.write, os._exit, os.getpid  # the cell may rebind the originals
    while True:
        token, number, size = COMMAND.unpack(read_exactly(commands, COMMAND.size))
        if number == FORK:
            letter, commands, verdicts = _fork(commands, verdicts)
            if getpid() == owner:
                report(verdicts, VERDICT.pack(token, letter, 0))
            owner = getpid()
            continue
        code = read_exactly(commands, size).decode(errors="replace")
        letter, exit_code = run(code, f"<cell {number}>", main.__dict__, show_last=True)
        flush()
        if getpid() != owner:
            leave(0)  # the cell forked, and this is the copy
        try:
            report(verdicts, VERDICT.pack(token, letter, exit_code))
        except OSError:
            leave(1)  # the cell closed our pipe; the supervisor sees the exit


def _fork(commands: int, verdicts: int) -> tuple[bytes, int, int]:
    """Copy this process into another session; how that went, and which descriptors are ours now."""
    with socket.socket(fileno=os.dup(commands)) as channel:
        _, fds, _, _ = socket.recv_fds(channel, 1, branch.DESCRIPTORS)
    try:
        moved = branch.move(fds)
    except branch.Threads:
        return THREADS, commands, verdicts
    except OSError:
        return ERROR, commands, verdicts
    return (OK, *moved) if moved else (OK, commands, verdicts)


def run(code: str, name: str, namespace: dict[str, Any], *, show_last: bool) -> tuple[bytes, int]:
    """Run code that tracebacks call ``name``; a verdict and an exit code. With ``show_last`` the value of a
    last expression is printed."""
    try:
        linecache.cache[name] = (_length(code), None, code.splitlines(keepends=True), name)
        tree = ast.parse(code, name) if show_last else None
        last = tree.body.pop() if tree and tree.body and isinstance(tree.body[-1], ast.Expr) else None
        if tree is None or tree.body or last is None:
            _execute(compile(tree or code, name, "exec", dont_inherit=True), namespace)
        if last is not None:
            # "single" hands the value to sys.displayhook, as a notebook would
            _execute(compile(ast.Interactive([last]), name, "single", dont_inherit=True), namespace)
    except SystemExit as error:
        return _exit_verdict(error)
    except MemoryError as error:
        explain(error, name)
        return MEMORY, 1
    except BaseException as error:  # noqa: BLE001  whatever the cell raised is its result
        explain(error, name)
        return ERROR, 1
    return OK, 0


def _exit_verdict(error: SystemExit) -> tuple[bytes, int]:
    if error.code is None or error.code == 0:
        return OK, 0
    if isinstance(error.code, int):
        return ERROR, error.code & 0xFF
    try:
        sys.stderr.write(f"{error.code}\n")
    except Exception:  # noqa: BLE001  the value's own __str__, or a stderr that the cell replaced
        return ERROR, 1
    return ERROR, 1


def explain(error: BaseException, name: str) -> None:
    """Print the traceback, from the cell's own first line on."""
    try:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != name:
            frames = frames.tb_next
        traceback.print_exception(type(error), error, frames)
    except BaseException:  # noqa: BLE001  a cell can make its exception unprintable
        os.write(2, f"{type(error).__name__} (and its message could not be printed)\n".encode())


def flush() -> None:
    """Pass on what the standard streams hold."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):  # replaced or closed by the cell
            stream.flush()


def prepare_streams() -> None:
    """Show what code printed even if it is killed in the middle of a block."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
import struct
import sys
import traceback
import types
from typing import Any, NoReturn

TOKEN_SIZE = 16
COMMAND = struct.Struct(f"!{TOKEN_SIZE}sII")  # token, cell number, bytes of code that follow
VERDICT = struct.Struct(f"!{TOKEN_SIZE}scB")  # token, one of the letters below, exit code
OK, ERROR, MEMORY = b"K", b"E", b"M"


def _read_exactly(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = os.read(fd, size - len(data))
        if not piece:
            os._exit(0)  # the supervisor is gone or wants us gone
        data += piece
    return bytes(data)


def serve(commands: int, verdicts: int) -> NoReturn:
    """Run cells read from one pipe and report each on the other, until either closes."""
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.path.insert(0, "")
    owner = os.getpid()
    report, leave, getpid = os.write, os._exit, os.getpid  # the cell may rebind the originals
    while True:
        token, number, size = COMMAND.unpack(_read_exactly(commands, COMMAND.size))
        code = _read_exactly(commands, size).decode(errors="replace")
        letter, exit_code = _run(code, f"<cell {number}>", main.__dict__)
        _flush()
        if getpid() != owner:
            leave(0)  # the cell forked, and this is the copy
        try:
            report(verdicts, VERDICT.pack(token, letter, exit_code))
        except OSError:
            leave(1)  # the cell closed our pipe; the supervisor sees the exit


def _run(code: str, name: str, namespace: dict[str, Any]) -> tuple[bytes, int]:
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    try:
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec", dont_inherit=True), namespace)  # noqa: S102
        if last is not None:
            # "single" hands the value to sys.displayhook, as a notebook would
            exec(compile(ast.Interactive([last]), name, "single", dont_inherit=True), namespace)  # noqa: S102
    except SystemExit as error:
        return _exit_verdict(error)
    except MemoryError as error:
        _explain(error, name)
        return MEMORY, 1
    except BaseException as error:  # noqa: BLE001  whatever the cell raised is its result
        _explain(error, name)
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


def _explain(error: BaseException, name: str) -> None:
    """Print the traceback, from the cell's own first line on."""
    try:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != name:
            frames = frames.tb_next
        traceback.print_exception(type(error), error, frames)
    except BaseException:  # noqa: BLE001  a cell can make its exception unprintable
        os.write(2, f"{type(error).__name__} (and its message could not be printed)\n".encode())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):  # replaced or closed by the cell
            stream.flush()


def prepare_streams() -> None:
    """Show what a cell printed even if it is killed in the middle of a block."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGINT, signal.default_int_handler)

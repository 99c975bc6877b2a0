"""Whether a statement gives the same rows as the wanted one, on every database of a suite."""

import os
import sqlite3
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrl.tools.untrusted.guest._same import MOST_COLUMNS, same_rows
    from agentrl.tools.untrusted.guest._sqlite import _STEPS, _connect, _Guard

_MOST_ROWS = 100_000
_MOST_BYTES = 32 << 20
_DEAD = {"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_PROTOCOL"}


class _Failed(Exception):
    """A statement gave no rows to compare: it ``failed``, was ``refused``, ``slow`` or ``huge``, or the file
    is ``dead``."""

    def __init__(self, how: str, detail: str) -> None:
        super().__init__(detail)
        self.how = how


def _rows(path: str, sql: str, most_rows: int, deadline: float, most_bytes: int) -> "list[tuple[Any, ...]]":
    """All rows of a statement; of more than ``most_rows``, one more than those."""
    guard, rows, size = _Guard(writable=False), [], 0
    connection = None
    try:
        connection = _connect(path, False, most_bytes)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        connection.set_authorizer(guard)
        for row in connection.execute(sql):
            rows.append(row)
            size += sum(len(value) for value in row if isinstance(value, (str, bytes)))
            if size > _MOST_BYTES or len(row) > MOST_COLUMNS:
                raise _Failed("huge", "its rows are larger than are compared")
            if len(rows) > most_rows:
                break
        return rows
    except (sqlite3.Error, sqlite3.Warning) as problem:
        if guard.refused:
            raise _Failed("refused", f"not allowed: {guard.refused}") from None
        if str(problem) == "interrupted":
            raise _Failed("slow", "it ran too long") from None
        name = getattr(problem, "sqlite_errorname", "")
        how = "dead" if "_".join(name.split("_")[:2]) in _DEAD else "failed"
        raise _Failed(how, f"SQLite: {problem}") from None
    except (MemoryError, OverflowError):
        raise _Failed("huge", "it needs more memory than it may use") from None
    except (OSError, ValueError) as problem:  # no such file, or a statement with characters that are none
        raise _Failed("failed", str(problem)) from None
    finally:
        if connection is not None:
            connection.close()


def _gold(path: str, request: "dict[str, Any]") -> "list[tuple[Any, ...]]":
    _note("gold")
    seconds = request["seconds"]
    with _Watchdog(seconds):
        gold = _rows(path, request["gold"], _MOST_ROWS, time.monotonic() + seconds, request["most_bytes"])
    if len(gold) > _MOST_ROWS:
        raise _Failed("huge", f"it has more than {_MOST_ROWS} rows")
    return gold


def _compare(
    path: str, request: "dict[str, Any]", gold: "list[tuple[Any, ...]]", seconds: float
) -> "tuple[str, str]":
    """(``same`` or what else came of the given statement, detail) on one database."""
    _note("given")
    deadline = time.monotonic() + seconds
    try:
        with _Watchdog(seconds):
            given = _rows(path, request["given"], len(gold), deadline, request["most_bytes"])
            ordered, late = request["ordered"], lambda: time.monotonic() > deadline
            same = same_rows(gold, given, ordered=ordered, expired=late)
    except _Failed as problem:
        return ("failed" if problem.how == "dead" else problem.how), str(problem)
    except TimeoutError:
        return "slow", "comparing it took too long"
    return ("same", "") if same else ("different", "its rows are not the wanted ones")


def _note(running: str) -> None:
    """What runs now, should the process be stopped."""
    sys.stdout.write(f"{running}\n")
    sys.stdout.flush()


class _Watchdog:
    """Ends the process if what is in its block runs on a second past its time, as one long function can."""

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds + 1.0, os._exit, [1])
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *problem: object) -> None:
        self._timer.cancel()


def answer(request: "dict[str, Any]") -> "dict[str, Any]":
    """What came of ``given`` beside ``gold``; the first of ``paths`` on which they differ decides."""
    outcome, detail, left = "same", "", request["seconds"]
    for path in request["paths"]:
        try:
            gold = _gold(path, request)
        except _Failed as problem:
            return {"outcome": f"gold {problem.how}", "detail": str(problem)[:500]}
        began = time.monotonic()
        outcome, detail = _compare(path, request, gold, left)
        left -= time.monotonic() - began
        if outcome != "same":
            break
    return {"outcome": outcome, "detail": detail[:500]}

"""A statement on an SQLite database file."""

import sqlite3
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrl.tools.untrusted.guest._rows import Rows
    from agentrl.tools.untrusted.guest._sqlite import _STEPS, _connect, _Guard


def answer(request: "dict[str, Any]") -> "dict[str, Any]":
    """The rows of ``sql`` on the database ``path``."""
    seconds = request["seconds"]
    writable = request["writable"]
    guard = _Guard(writable)
    deadline = time.monotonic() + seconds
    rows = Rows(*request["caps"])
    connection = _connect(request["path"], writable, request["most_bytes"])
    try:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        connection.set_authorizer(guard)
        cursor = connection.execute(request["sql"])
        for row in cursor:
            if not rows.add(row):
                break
        columns = [str(column[0])[:200] for column in cursor.description or ()]
        return {"columns": columns, "rows": rows.rows, "more": rows.more, "changed": cursor.rowcount}
    except (sqlite3.Error, sqlite3.Warning) as problem:
        if guard.refused:
            raise PermissionError(f"Not allowed: {guard.refused} ({problem}).") from None
        if str(problem) == "interrupted":
            raise TimeoutError(f"Interrupted: the statement ran longer than {seconds:g} s.") from None
        if "readonly" in str(problem):
            raise PermissionError("Not allowed: the database can only be read.") from None
        raise ValueError(f"SQLite: {problem}") from None
    finally:
        connection.close()

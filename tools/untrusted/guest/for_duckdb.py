"""A statement on a DuckDB database file."""

import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrl.tools.untrusted.guest._rows import Rows

_READING = {"SELECT", "EXPLAIN"}
_WRITING = {"INSERT", "UPDATE", "DELETE", "MERGE_INTO", "CREATE", "ALTER", "DROP", "TRANSACTION"}
_SETTINGS: "dict[str, str | bool | int | float | list[str]]" = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "memory_limit": "128MB",
    "max_temp_directory_size": "0KB",
    "temp_directory": "",
    "threads": "1",
    "lock_configuration": "true",
}


def answer(request: "dict[str, Any]") -> "dict[str, Any]":
    """The rows of ``sql`` on the database ``path``."""
    import duckdb

    path, writable, seconds = request["path"], request["writable"], request["seconds"]
    if not writable and not os.path.isfile(path):
        raise ValueError(f"There is no database file {path!r}.")
    if os.path.isfile(path) and os.path.getsize(path) > request["most_bytes"]:
        raise PermissionError(f"The database has more than {request['most_bytes']} bytes.")
    rows = Rows(*request["caps"])
    allowed = _READING | (_WRITING if writable else set())
    over = threading.Event()
    try:
        connection = duckdb.connect(path, read_only=not writable, config=_SETTINGS)
        statements = connection.extract_statements(request["sql"])
        if len(statements) != 1:
            raise ValueError("Give one statement, no more and no less.")
        kind = str(statements[0].type).rpartition(".")[2]
        if kind.removesuffix("_STATEMENT") not in allowed:
            raise PermissionError(f"Not allowed: a statement of the kind {kind}.")

        def stop() -> None:
            over.set()
            connection.interrupt()

        watchdog = threading.Timer(seconds, stop)
        watchdog.daemon = True
        watchdog.start()
        try:
            cursor = connection.execute(statements[0])
            columns = [str(column[0])[:200] for column in cursor.description or ()]
            while (row := cursor.fetchone()) is not None and rows.add(row):
                pass
        finally:
            watchdog.cancel()
    except duckdb.Error as problem:
        if over.is_set():
            raise TimeoutError(f"Interrupted: the statement ran longer than {seconds:g} s.") from None
        if isinstance(problem, duckdb.OutOfMemoryException):
            raise MemoryError from None
        if isinstance(problem, duckdb.PermissionException):
            raise PermissionError(f"Not allowed: {problem}") from None
        raise ValueError(f"DuckDB: {problem}") from None
    return {"columns": columns, "rows": rows.rows, "more": rows.more, "changed": -1}

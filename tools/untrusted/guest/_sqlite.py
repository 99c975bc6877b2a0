"""An SQLite database file, opened so that a statement does no more than it may."""

import os
import sqlite3
import sys
from urllib.parse import quote

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_WRITING = {
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,
    sqlite3.SQLITE_DELETE,
    sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_SAVEPOINT,
    sqlite3.SQLITE_ALTER_TABLE,
    sqlite3.SQLITE_REINDEX,
    sqlite3.SQLITE_ANALYZE,
} | {
    number
    for name, number in vars(sqlite3).items()
    if name.startswith(("SQLITE_CREATE_", "SQLITE_DROP_")) and not name.endswith("_VTABLE")
}
# Those that read with or without an argument, and those that read without one and write with one.
_PRAGMAS = {
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
}
_READ_ONLY_PRAGMAS = {
    "user_version",
    "application_id",
    "encoding",
    "schema_version",
    "page_count",
    "page_size",
}
_NO_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 16 << 20,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 2_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 10,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_HEAP_BYTES = 128 << 20
_STEPS = 2_000  # virtual machine instructions between looks at the clock


class _Guard:
    """Says what a statement may do, and remembers what it may not."""

    def __init__(self, writable: bool) -> None:
        self.allowed = _READING | (_WRITING if writable else set())
        self.writable = writable
        self.refused = ""

    def __call__(self, action: int, first: "str | None", second: "str | None", *_: object) -> int:
        if action == sqlite3.SQLITE_PRAGMA:
            name = (first or "").lower()
            allowed = name in _PRAGMAS or (name in _READ_ONLY_PRAGMAS and second is None)
            what = f"PRAGMA {name}"
        elif action == sqlite3.SQLITE_UPDATE and first == "sqlite_master":
            allowed, what = (
                True,
                "",
            )  # table-valued functions ask for this; real changes SQLite itself refuses
        elif action == sqlite3.SQLITE_FUNCTION:
            allowed = (second or "").lower() not in _NO_FUNCTIONS
            what = f"the function {second}"
        else:
            allowed = action in self.allowed
            what = "changing the database" if action in _WRITING else "this kind of statement"
        if not allowed:
            self.refused = self.refused or what
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _connect(path: str, writable: bool, most_bytes: int) -> sqlite3.Connection:
    if not os.path.isfile(path):
        raise ValueError(f"There is no database file {path!r}.")
    if os.path.getsize(path) > most_bytes:
        raise PermissionError(f"The database has more than {most_bytes} bytes.")
    name = f"file:{quote(os.path.abspath(path))}?mode={'rw' if writable else 'ro'}"
    if not writable and not any(os.path.exists(path + suffix) for suffix in ("-wal", "-journal")):
        name += "&immutable=1"
    connection = sqlite3.connect(name, uri=True, isolation_level=None, timeout=1.0)
    connection.text_factory = lambda data: data.decode(errors="replace")
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    for setting in (
        "trusted_schema=OFF",
        "temp_store=MEMORY",
        f"hard_heap_limit={_HEAP_BYTES}",
        "cell_size_check=ON",
    ):
        connection.execute(f"PRAGMA {setting}").close()
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
    return connection

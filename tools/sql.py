"""Look at a database and run SQL on it: an SQLite or DuckDB file, or a PostgreSQL server."""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

from agentrl import ConfigError, DataError, Observation, Tool, ToolError
from agentrl.tools.untrusted.embedded import MOST_DATABASE_BYTES, query
from agentrl.tools.untrusted.postgres import PostgresPool, Slot
from agentrl.tools.untrusted.table import Caps, Table

MARGIN_SECONDS = 90.0
"""A call may also have to wait for a session or a slot."""
SAMPLE_ROWS = 3

Engine = Literal["sqlite", "duckdb", "postgres"]

_SCHEMA = {
    "sqlite": "SELECT name, sql FROM sqlite_master "
    "WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid",
    "duckdb": "SELECT table_name AS name, sql FROM duckdb_tables() UNION ALL "
    "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal",
    "postgres": "SELECT table_schema || '.' || table_name AS name, "
    "string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position) AS columns "
    "FROM information_schema.columns WHERE table_schema NOT IN ('pg_catalog', 'information_schema') "
    "GROUP BY 1 ORDER BY 1",
}


class Sql(Tool):
    """Runs SQL on an episode's own copy of a database.

    SQLite and DuckDB files are copied into a sandbox session and opened there; of a PostgreSQL database, the
    episode is lent a clone.

    Args:
        database: the file; for PostgreSQL, the database that is cloned.
        engine: what it is.
        dsn: for PostgreSQL, how a superuser connects to the server (a libpq connection string).
        writable: whether statements may change the episode's copy.
        rows: of an answer that are shown.
        output_bytes: of an answer that are shown, about.
        seconds: for one statement.
        slots: for PostgreSQL, clones at once; further episodes wait.

    The observation's metadata holds ``columns``, ``rows`` and ``more``.

    Raises:
        DataError: there is no such file, or it is too large.
        ConfigError: ``dsn`` is missing, or is for another engine.
    """

    def __init__(
        self,
        database: str,
        engine: Engine = "sqlite",
        dsn: str = "",
        writable: bool = False,
        rows: int = 50,
        output_bytes: int = 16_384,
        seconds: float = 10.0,
        slots: int = 8,
    ) -> None:
        if (engine == "postgres") != bool(dsn):
            raise ConfigError("The option 'dsn' is needed for the engine 'postgres', and for it alone.")
        self.engine, self.database, self.writable = engine, database, writable
        self.caps = Caps(seconds=seconds, rows=rows, bytes=output_bytes)
        self.seconds = seconds + MARGIN_SECONDS
        self.shared = _SharedPool(dsn, database, writable, slots) if dsn else None
        self.limits: dict[str, Any] = {}
        if engine != "postgres":
            self.limits = self._limits()
        self._begin()

    def _begin(self) -> None:
        self._stack = AsyncExitStack()
        self._slot: Slot | None = None
        self._copied = False
        self._copying = asyncio.Lock()

    def _limits(self) -> dict[str, Any]:
        path = Path(self.database).expanduser()
        if not path.is_file():
            raise DataError(f"The database {str(path)!r} is no file.")
        size = path.stat().st_size
        if size > MOST_DATABASE_BYTES:
            raise DataError(f"The database {str(path)!r} has more than {MOST_DATABASE_BYTES >> 20} MiB.")
        room = 64 + math.ceil(size / (1 << 20))
        preload = ("sqlite3", "json", "urllib.parse") if self.engine == "sqlite" else ("duckdb", "json")
        return {"disk_mb": room, "memory_mb": 512 + room, "preload": preload}

    async def open(self) -> None:
        """Start without a copy; the first call makes it."""
        self._begin()

    async def close(self) -> None:
        """Give a clone back."""
        await self._stack.aclose()

    async def call(self, query: str = "", table: str = "") -> Observation:
        """Run one SQL statement on the database and show its rows. Without arguments, show the schema.

        Args:
            query: one SQL statement
            table: instead of a statement, the name of a table whose first rows are shown
        """
        if query and table:
            raise ToolError("Give a query or a table, not both.")
        statement = query or (self._sample(table) if table else _SCHEMA[self.engine])
        found = await self._run(statement)
        return Observation(found.text(), metadata=found.model_dump(include={"columns", "rows", "more"}))

    def _sample(self, table: str) -> str:
        parts = table.split(".") if self.engine == "postgres" else [table]
        quoted = ".".join('"' + part.replace('"', '""') + '"' for part in parts)
        return f"SELECT * FROM {quoted} LIMIT {SAMPLE_ROWS}"

    async def _run(self, statement: str) -> Table:
        if self.engine == "postgres":
            return await (await self._lent()).query(statement, self.caps)
        session = await self.context.sandbox(**self.limits)
        name = f"database.{self.engine}"
        async with self._copying:
            if not self._copied:
                path = Path(self.database).expanduser()
                await session.put(name, await self.context.blocking.run(path.read_bytes))
                self._copied = True
        return await query(session, self.engine, name, statement, writable=self.writable, caps=self.caps)

    async def _lent(self) -> Slot:
        async with self._copying:
            if self._slot is None and self.shared is not None:
                pool = await self._stack.enter_async_context(self.shared)
                self._slot = await self._stack.enter_async_context(pool.slot())
        if self._slot is None:
            raise ConfigError("The option 'dsn' is needed for the engine 'postgres'.")
        return self._slot


class _SharedPool:
    """One pool for all episodes, open as long as one of them uses it."""

    def __init__(self, dsn: str, template: str, writable: bool, slots: int) -> None:
        self._dsn, self._template, self._writable, self._slots = dsn, template, writable, slots
        self._users = 0
        self._pool: PostgresPool | None = None
        self._changing = asyncio.Lock()

    async def __aenter__(self) -> PostgresPool:
        async with self._changing:
            if self._pool is None:
                pool = PostgresPool(self._dsn, self._template, writable=self._writable, slots=self._slots)
                self._pool = await pool.__aenter__()
            self._users += 1
            return self._pool

    async def __aexit__(self, *problem: object) -> None:
        async with self._changing:
            self._users -= 1
            if self._users == 0 and self._pool is not None:
                pool, self._pool = self._pool, None
                await pool.__aexit__(None, None, None)

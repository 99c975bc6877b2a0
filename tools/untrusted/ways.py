"""The ways in which the `sql` tool gives an episode a database of its own."""

from __future__ import annotations

import asyncio
import copy
import math
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

from agentrl import ConfigError, DataError, ToolContext
from agentrl.tools.untrusted.by_url import UrlDatabase
from agentrl.tools.untrusted.embedded import MOST_DATABASE_BYTES, query
from agentrl.tools.untrusted.postgres import PostgresPool, Slot
from agentrl.tools.untrusted.table import Caps, Table

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


class Way(ABC):
    """A template, of which :meth:`spawn` makes an episode's own."""

    context: ToolContext

    def spawn(self, context: ToolContext) -> Way:
        """One episode's; it has nothing open yet."""
        own = copy.copy(self)
        own.context = context
        own._begin()
        return own

    @abstractmethod
    def _begin(self) -> None:
        """Make what an episode does not share."""

    @abstractmethod
    async def query(self, statement: str) -> Table:
        """Run one statement.

        Raises:
            ToolError: of the kinds in `agentrl.tools.untrusted`.
            InfrastructureError: a server failed.
        """

    @abstractmethod
    async def schema(self) -> Table:
        """The tables, one a row, and what their columns are."""

    @abstractmethod
    async def sample(self, table: str, rows: int) -> Table:
        """The first rows of a table."""

    async def close(self) -> None:  # noqa: B027 - most have nothing to give back
        """Give back what was lent."""


class Files(Way):
    """SQLite and DuckDB files, each episode's copied into its sandbox session.

    Args:
        engine: what the files are.
        database: the file; or else
        folder: of files, of which each task names its own as ``task.metadata["database"]``.
    """

    def __init__(self, engine: Engine, database: str, folder: str, caps: Caps, *, writable: bool) -> None:
        if engine == "postgres":
            raise ConfigError("The options 'folder' and 'url' do not go with the engine 'postgres'.")
        self._engine: Literal["sqlite", "duckdb"] = engine
        self._caps, self._writable = caps, writable
        self._file = Path(database).expanduser() if database else None
        self._folder = Path(folder).expanduser()
        if self._file is not None:
            _limits(self._file, engine)
        elif not self._folder.is_dir():
            raise DataError(f"The folder of databases {folder!r} is none.")

    def _begin(self) -> None:
        self._copied = False
        self._copying = asyncio.Lock()

    def _path(self) -> Path:
        """The episode's file. A task may come from elsewhere and must not reach other files of this
        machine."""
        if self._file is not None:
            return self._file
        name = self.context.task.metadata.get("database")
        if not isinstance(name, str) or not name:
            raise DataError(
                f"Task {self.context.task.id} names no database: its metadata needs 'database', the path of "
                f"a file within {str(self._folder)!r}."
            )
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise DataError(
                f"Task {self.context.task.id} names the database {name!r}, which lies outside of "
                f"{str(self._folder)!r}."
            )
        return path

    async def query(self, statement: str) -> Table:
        path = self._path()
        session = await self.context.sandbox(**_limits(path, self._engine))
        name = f"database.{self._engine}"
        async with self._copying:
            if not self._copied:
                await session.put(name, await self.context.blocking.run(path.read_bytes))
                self._copied = True
        return await query(session, self._engine, name, statement, writable=self._writable, caps=self._caps)

    async def schema(self) -> Table:
        return await self.query(_SCHEMA[self._engine])

    async def sample(self, table: str, rows: int) -> Table:
        return await self.query(f"SELECT * FROM {_quoted(table)} LIMIT {rows}")


def _limits(path: Path, engine: str) -> dict[str, Any]:
    """The sandbox that a file needs."""
    if not path.is_file():
        raise DataError(f"The database {str(path)!r} is no file.")
    size = path.stat().st_size
    if size > MOST_DATABASE_BYTES:
        raise DataError(f"The database {str(path)!r} has more than {MOST_DATABASE_BYTES >> 20} MiB.")
    room = 64 + math.ceil(size / (1 << 20))
    preload = ("sqlite3", "json", "urllib.parse") if engine == "sqlite" else ("duckdb", "json")
    return {"disk_mb": room, "memory_mb": 512 + room, "preload": preload}


class Clones(Way):
    """Clones of a PostgreSQL database; see `agentrl.tools.untrusted.postgres`."""

    def __init__(self, dsn: str, database: str, caps: Caps, *, writable: bool, slots: int) -> None:
        self._shared, self._caps = _SharedPool(dsn, database, writable, slots), caps

    def _begin(self) -> None:
        self._stack = AsyncExitStack()
        self._slot: Slot | None = None
        self._lending = asyncio.Lock()

    async def query(self, statement: str) -> Table:
        async with self._lending:
            if self._slot is None:
                pool = await self._stack.enter_async_context(self._shared)
                self._slot = await self._stack.enter_async_context(pool.slot())
        return await self._slot.query(statement, self._caps)

    async def schema(self) -> Table:
        return await self.query(_SCHEMA["postgres"])

    async def sample(self, table: str, rows: int) -> Table:
        return await self.query(f"SELECT * FROM {'.'.join(map(_quoted, table.split('.')))} LIMIT {rows}")

    async def close(self) -> None:
        await self._stack.aclose()


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


class Servers(Way):
    """Databases by their SQLAlchemy URLs, in a transaction of the episode's; see
    `agentrl.tools.untrusted.by_url`."""

    def __init__(self, url: str, caps: Caps, *, writable: bool, slots: int) -> None:
        self._url, self._caps, self._writable = url, caps, writable
        self._places = asyncio.Semaphore(slots)

    def _begin(self) -> None:
        self._database = UrlDatabase(self._url, self._places, writable=self._writable)

    async def query(self, statement: str) -> Table:
        return await self._database.query(statement, self._caps)

    async def schema(self) -> Table:
        return await self._database.schema(self._caps)

    async def sample(self, table: str, rows: int) -> Table:
        return await self._database.sample(table, rows, self._caps)

    async def close(self) -> None:
        await self._database.close()


def of_url(url: str, caps: Caps, *, writable: bool, slots: int) -> Way:
    """The way that is honest for a URL's dialect.

    Raises:
        ConfigError: it is no URL, or no episode can be held by a transaction of that dialect.
        DataError: it names a file that is not there, or too large.
    """
    try:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError as problem:
        raise ConfigError("The option 'url' needs SQLAlchemy: pip install 'agentrl[sql]'.") from problem
    try:
        dialect, file = make_url(url).get_backend_name(), make_url(url).database
    except ArgumentError:
        raise ConfigError(
            "The option 'url' is no URL as SQLAlchemy takes it: DIALECT+DRIVER://USER@HOST/DATABASE."
        ) from None
    if dialect == "mssql":
        raise ConfigError(
            "The dialect 'mssql' takes several statements without a sign between them, so a call cannot be "
            "held to one."
        )
    if dialect in ("sqlite", "duckdb"):
        if not file or file == ":memory:":
            raise ConfigError(f"The option 'url' names no file: {dialect}:///path/to/file.")
        return Files("sqlite" if dialect == "sqlite" else "duckdb", file, "", caps, writable=writable)
    return Servers(url, caps, writable=writable, slots=slots)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

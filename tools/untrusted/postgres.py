"""Databases on a PostgreSQL server, lent to one episode at a time and held by grants.

A slot is a database, cloned from a template, and a login role that may use nothing else. When the slot is
given back both are dropped. Every call has a connection of its own, so that no setting, lock or prepared
statement of one call is there for the next. Needs PostgreSQL 14 or later.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, LiteralString, Self

from agentrl import ConfigError, InfrastructureError
from agentrl.tools.untrusted.errors import Interrupted, Invalid, Refused
from agentrl.tools.untrusted.guest._rows import Rows
from agentrl.tools.untrusted.relay import relayed
from agentrl.tools.untrusted.table import Caps, Table

if TYPE_CHECKING:
    import psycopg

_PORT = 5432
_OVERHEAD_BYTES = 1 << 20
"""What a connection may bring besides the answer: a few longer values, notices, the greeting."""
_GRACE = 1.0
"""Seconds after the server's own time limit at which a statement is cancelled, then its backend ended."""
_ADMIN_SECONDS = 60.0
_END_MILLISECONDS = 5_000
_OF_ROLE = "FROM pg_stat_activity WHERE pid = {pid} AND usename = {role}"  # a number may have a new owner
_CANCEL: LiteralString = f"SELECT pg_cancel_backend(pid) {_OF_ROLE}"
_END: LiteralString = f"SELECT pg_terminate_backend(pid, {{wait}}) {_OF_ROLE}"
_TOO_LONG = "Interrupted: the statement ran longer than {seconds:g} s."

# Large objects are files in all but name; advisory locks come from a table that all databases share; settings
# lift limits in the middle of a statement, as code in a language does; messages go to the server's log.
_DENIED_FUNCTIONS = r"^(lo_.*|loread|lowrite|pg_(try_)?advisory_.*|set_config|pg_logical_emit_message)$"
_DENIED_LANGUAGES = ("plpgsql", "sql")


@dataclass(frozen=True)
class Slot:
    """A database of an episode's own, and who may use it."""

    name: str
    password: str
    pool: PostgresPool

    async def query(self, statement: str, caps: Caps | None = None) -> Table:
        """Run one statement on a connection of its own.

        Raises:
            Refused: the role may not do it, or a value is larger than an answer may be.
            Interrupted: it ran too long, or used too much disk for sorting, and was stopped.
            Invalid: it is no statement, more than one, or it failed.
            InfrastructureError: the server cannot be reached.
        """
        return await self.pool.query(self, statement, caps or Caps())


class PostgresPool:
    """At most ``slots`` databases on one server; an async context manager.

    Args:
        dsn: how a superuser connects, as libpq takes it.
        template: the database that slots are cloned from. Nobody may be connected to it when the pool opens.
        writable: whether roles may change their database's tables, and make some.
        slots: databases at once; a further episode waits, up to ``wait_seconds``.
        wait_seconds: for a free slot.
        temp_mb: MiB of temporary files per connection.
        prefix: of the names of databases and roles. A pool that opens drops what ended ones left.

    Raises:
        ConfigError: on entering, the server cannot be reached or ``dsn`` names no superuser.
    """

    def __init__(
        self,
        dsn: str,
        template: str,
        *,
        writable: bool = False,
        slots: int = 8,
        wait_seconds: float = 60.0,
        temp_mb: int = 64,
        prefix: str = "agentrl",
    ) -> None:
        self.template, self.writable = template, writable
        self._dsn, self._temp_mb, self._wait_seconds = dsn, temp_mb, wait_seconds
        self._prefix, self._pool = prefix, f"{prefix}_{secrets.token_hex(4)}"
        self._free = asyncio.Semaphore(slots)
        self._admin: psycopg.AsyncConnection[Any] | None = None
        self._warden: psycopg.AsyncConnection[Any] | None = None  # ends calls while databases are being made
        self._made = 0

    async def __aenter__(self) -> Self:
        import psycopg

        try:
            self._admin = await psycopg.AsyncConnection.connect(
                self._dsn, autocommit=True, application_name=self._pool
            )
            self._warden = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
        except psycopg.Error as problem:
            raise ConfigError(
                f"PostgreSQL cannot be reached: {str(problem).strip()}. Look at its dsn."
            ) from None
        try:
            if self._admin.info.parameter_status("is_superuser") != "on":
                raise ConfigError(
                    "The dsn for PostgreSQL has to be a superuser's: only one can bound what the roles of "
                    "slots use, and end their connections."
                )
            await self._sweep()
            await self._prepare()
        except BaseException:
            await self._close()
            raise
        return self

    async def _close(self) -> None:
        for connection in (self._admin, self._warden):
            if connection is not None:
                await connection.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._drop(self._base)
        finally:
            await self._close()

    @property
    def _base(self) -> str:
        return f"{self._pool}_base"

    async def _do(
        self, text: LiteralString, on: psycopg.AsyncConnection[Any] | None = None, **names: Any
    ) -> list[Any]:
        """Run a statement of our own: ``{Name}`` stands for an identifier, ``{name}`` for a value."""
        import psycopg
        from psycopg import sql

        connection = on or self._admin
        if connection is None:
            raise RuntimeError("a pool is used inside `async with`")
        parts: dict[str, sql.Composable] = {
            name: sql.Identifier(value) if name[0].isupper() else sql.Literal(value)
            for name, value in names.items()
        }
        try:
            async with asyncio.timeout(_ADMIN_SECONDS):
                cursor = await connection.execute(sql.SQL(text).format(**parts))
                return await cursor.fetchall() if cursor.description else []
        except TimeoutError:
            raise InfrastructureError(f"PostgreSQL did not answer within {_ADMIN_SECONDS:g} s.") from None
        except psycopg.Error as problem:
            raise InfrastructureError(f"PostgreSQL failed: {str(problem).strip()}.") from None

    async def _sweep(self) -> None:
        """Drop what pools left that ended without doing so: their connection is gone."""
        names = await self._do(
            "SELECT datname FROM pg_database WHERE starts_with(datname, {start}) "
            "UNION SELECT rolname FROM pg_roles WHERE starts_with(rolname, {start})",
            start=f"{self._prefix}_",
        )
        for (name,) in names:
            pool = name.rpartition("_")[0]
            living = await self._do(
                "SELECT 1 FROM pg_stat_activity WHERE application_name = {pool}", pool=pool
            )
            if not living:
                await self._drop(name)

    async def _prepare(self) -> None:
        """A copy of the template in which PUBLIC may do nothing that slots must not."""
        try:
            await self._do(
                "CREATE DATABASE {Base} TEMPLATE {Template}", Base=self._base, Template=self.template
            )
        except InfrastructureError as problem:
            raise ConfigError(f"The template {self.template!r} cannot be cloned. {problem}") from None
        await self._do("REVOKE ALL ON DATABASE {Base} FROM PUBLIC", Base=self._base)
        async with self._inside(self._base) as base:
            functions = await self._do(
                "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace "
                "AND proname ~ {pattern}",
                base,
                pattern=_DENIED_FUNCTIONS,
            )
            for language in _DENIED_LANGUAGES:
                await self._do("REVOKE USAGE ON LANGUAGE {Language} FROM PUBLIC", base, Language=language)
            for (function,) in functions:
                await base.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC".encode())
            for schema in await self._schemas(base):
                await self._do("REVOKE ALL ON SCHEMA {Schema} FROM PUBLIC", base, Schema=schema)
                await self._do("REVOKE ALL ON ALL TABLES IN SCHEMA {Schema} FROM PUBLIC", base, Schema=schema)
                await self._do(
                    "REVOKE ALL ON ALL SEQUENCES IN SCHEMA {Schema} FROM PUBLIC", base, Schema=schema
                )

    @contextlib.asynccontextmanager
    async def _inside(self, name: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """The superuser's connection to one of our databases."""
        import psycopg

        try:
            async with await psycopg.AsyncConnection.connect(
                self._dsn, dbname=name, autocommit=True
            ) as connection:
                yield connection
        except psycopg.Error as problem:
            raise InfrastructureError(f"PostgreSQL failed: {str(problem).strip()}.") from None

    async def _schemas(self, connection: psycopg.AsyncConnection[Any]) -> list[str]:
        found = await self._do(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'",
            connection,
        )
        return [name for (name,) in found]

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """A fresh copy of the template, dropped at the end.

        Raises:
            InfrastructureError: none came free in time, or the server failed.
        """
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._free.acquire()
        except TimeoutError:
            raise InfrastructureError(
                f"No PostgreSQL slot came free within {self._wait_seconds:g} s; give the pool more slots."
            ) from None
        try:
            self._made += 1
            slot = Slot(f"{self._pool}_{self._made}", secrets.token_urlsafe(24), self)
            try:
                await self._make(slot)
                yield slot
            finally:
                await asyncio.shield(self._drop(slot.name))
        finally:
            self._free.release()

    async def _make(self, slot: Slot) -> None:
        name = slot.name
        await self._do(
            "CREATE ROLE {Name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOINHERIT "
            "NOBYPASSRLS CONNECTION LIMIT 2 PASSWORD {password}",
            Name=name,
            password=slot.password,
        )
        await self._do(
            "ALTER ROLE {Name} SET temp_file_limit = {limit}", Name=name, limit=f"{self._temp_mb}MB"
        )
        await self._do("CREATE DATABASE {Name} TEMPLATE {Base}", Name=name, Base=self._base)
        await self._do("REVOKE ALL ON DATABASE {Name} FROM PUBLIC", Name=name)
        await self._do("GRANT CONNECT ON DATABASE {Name} TO {Name}", Name=name)
        async with self._inside(name) as own:
            for schema in await self._schemas(own):
                for right in _WRITER if self.writable else _READER:
                    await self._do(right, own, Schema=schema, Name=name)

    async def _drop(self, name: str) -> None:
        await self._do("DROP DATABASE IF EXISTS {Name} WITH (FORCE)", Name=name)
        await self._do("DROP ROLE IF EXISTS {Name}", Name=name)

    async def query(self, slot: Slot, statement: str, caps: Caps) -> Table:
        """As `Slot.query`, which see."""
        import psycopg

        most = caps.bytes + _OVERHEAD_BYTES
        async with relayed(self._dial, most, f".s.PGSQL.{_PORT}") as (relay, folder):
            try:
                async with asyncio.timeout(_ADMIN_SECONDS):
                    connection = await psycopg.AsyncConnection.connect(
                        host=folder,
                        port=_PORT,
                        user=slot.name,
                        password=slot.password,
                        dbname=slot.name,
                        autocommit=True,
                        options=f"-c statement_timeout={int(caps.seconds * 1000)}",
                    )
            except (psycopg.Error, TimeoutError) as problem:
                raise InfrastructureError(f"PostgreSQL cannot be reached: {str(problem).strip()}.") from None
            running = asyncio.create_task(_run(connection, statement, caps))
            pid = connection.info.backend_pid
            try:
                if not await self._ends(running, pid, slot.name, caps.seconds):
                    raise Interrupted(_TOO_LONG.format(seconds=caps.seconds))
                return running.result()
            except psycopg.Error as problem:
                if relay.overflowed:
                    raise Refused("The answer has a value that is larger than an answer may be.") from None
                raise _told(problem, caps.seconds) from None
            finally:
                try:  # its backend is gone before the next call begins, with all that it held
                    await self._do(_END, self._warden, pid=pid, role=slot.name, wait=_END_MILLISECONDS)
                finally:
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
                    await connection.close()

    async def _ends(self, running: asyncio.Task[Table], pid: int, role: str, seconds: float) -> bool:
        """Wait for a call; cancel its statement if the server's limit did not. False if that failed too."""
        await asyncio.wait([running], timeout=seconds + _GRACE)
        if not running.done():
            await self._do(_CANCEL, self._warden, pid=pid, role=role)
            await asyncio.wait([running], timeout=_GRACE)
        return running.done()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._admin is None:
            raise RuntimeError("a pool is used inside `async with`")
        info = self._admin.info
        if info.host.startswith("/"):
            return await asyncio.open_unix_connection(f"{info.host}/.s.PGSQL.{info.port}")
        return await asyncio.open_connection(info.hostaddr or info.host, info.port)


_READER: tuple[LiteralString, ...] = (
    "GRANT USAGE ON SCHEMA {Schema} TO {Name}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA {Schema} TO {Name}",
)
_WRITER: tuple[LiteralString, ...] = (
    "GRANT USAGE, CREATE ON SCHEMA {Schema} TO {Name}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {Schema} TO {Name}",
    "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {Schema} TO {Name}",
)


async def _run(connection: psycopg.AsyncConnection[Any], statement: str, caps: Caps) -> Table:
    """One statement by the extended protocol, which takes no second one, row by row.

    A cursor's ``stream`` would not tell the columns of an answer without rows.
    """
    import psycopg
    from psycopg.adapt import Transformer
    from psycopg.generators import fetch
    from psycopg.pq import ExecStatus

    rows, columns, changed = Rows(caps.rows, caps.bytes, caps.value_bytes), [], -1
    values = Transformer(connection)
    link = connection.pgconn
    link.send_query_params(statement.encode(errors="replace").replace(b"\0", b" "), None)
    link.set_single_row_mode()
    while (result := await connection.wait(fetch(link))) is not None:
        if result.status in (ExecStatus.SINGLE_TUPLE, ExecStatus.TUPLES_OK):
            names = [result.fname(number) or b"" for number in range(result.nfields)]
            columns = [name.decode(errors="replace") for name in names]
            values.set_pgresult(result)
            if result.ntuples and not rows.add(values.load_row(0, tuple)):
                break
        elif result.status == ExecStatus.COMMAND_OK:
            changed = -1 if result.command_tuples is None else result.command_tuples
        elif result.status in (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE):
            raise psycopg.errors.error_from_result(result, encoding=connection.info.encoding)
        else:
            raise Invalid("PostgreSQL: COPY to or from the client is not supported; use SELECT or INSERT.")
    return Table(columns=columns, rows=rows.rows, more=rows.more, changed=changed)


def _told(problem: psycopg.Error, seconds: float) -> Exception:
    """The error for whoever it concerns, by PostgreSQL's code of what went wrong."""
    from psycopg import errors

    text = str(problem).strip()
    if problem.sqlstate is None or isinstance(problem, (errors.AdminShutdown, errors.CrashShutdown)):
        return InfrastructureError(f"The connection to PostgreSQL was lost: {text}")
    if isinstance(problem, errors.QueryCanceled):
        return Interrupted(_TOO_LONG.format(seconds=seconds))
    if isinstance(problem, (errors.ConfigurationLimitExceeded, errors.OutOfMemory, errors.DiskFull)):
        return Interrupted(f"Stopped: {text}")
    if isinstance(problem, (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)):
        return Refused(f"Not allowed: {text}")
    return Invalid(f"PostgreSQL: {text}")

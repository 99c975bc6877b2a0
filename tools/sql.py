"""Look at a database and run SQL on it: an SQLite or DuckDB file, or a database on a server."""

from __future__ import annotations

from agentrl import ConfigError, Observation, Tool, ToolContext, ToolError
from agentrl.tools.untrusted.table import Caps
from agentrl.tools.untrusted.ways import Clones, Engine, Files, Way, of_url

MARGIN_SECONDS = 90.0
"""A call may also have to wait for a session or a slot."""
SAMPLE_ROWS = 3


class Sql(Tool):
    """Runs SQL on an episode's own copy of a database, or in a transaction that is undone at its end.

    SQLite and DuckDB files are copied into a sandbox session and opened there; of a PostgreSQL database that
    a superuser offers by ``dsn``, the episode is lent a clone; on a database by ``url``, it has a
    transaction.

    Args:
        database: the file; for PostgreSQL, the database that is cloned.
        engine: what it is: ``sqlite``, ``duckdb`` or ``postgres``.
        dsn: for PostgreSQL, how a superuser connects to the server (a libpq connection string).
        url: instead, any database as SQLAlchemy names it, such as ``postgresql+psycopg://reader@host/shop``.
            What statements may do is what that user may. ``sqlite:///FILE`` and ``duckdb:///FILE`` are files
            as above.
        folder: instead, files of which each task names its own, relative to the folder, as
            ``task.metadata["database"]``.
        writable: whether statements may change what the episode sees.
        rows: of an answer that are shown.
        output_bytes: of an answer that are shown, about.
        seconds: for one statement.
        slots: on servers, clones or connections at once; further episodes wait.

    The observation's metadata holds ``columns``, ``rows`` and ``more``.

    Raises:
        DataError: there is no such file, or it is too large; with ``folder``, at the first call.
        ConfigError: options are missing or exclude each other, ``url`` is none, or its dialect cannot be
            held.
    """

    def __init__(
        self,
        database: str = "",
        engine: Engine = "sqlite",
        dsn: str = "",
        url: str = "",
        folder: str = "",
        writable: bool = False,
        rows: int = 50,
        output_bytes: int = 16_384,
        seconds: float = 10.0,
        slots: int = 8,
    ) -> None:
        given = [name for name, value in (("database", database), ("url", url), ("folder", folder)) if value]
        if not given:
            raise ConfigError("Tool 'sql' needs the option 'database', or else 'url' or 'folder'.")
        if len(given) > 1:
            raise ConfigError(
                f"The options {' and '.join(map(repr, given))} exclude each other; give one of them."
            )
        if bool(dsn) != (engine == "postgres" and bool(database)):
            raise ConfigError("The option 'dsn' is needed for the engine 'postgres', and for it alone.")
        caps = Caps(seconds=seconds, rows=rows, bytes=output_bytes)
        self.seconds = seconds + MARGIN_SECONDS
        self._template: Way
        if dsn:
            self._template = Clones(dsn, database, caps, writable=writable, slots=slots)
        elif url:
            self._template = of_url(url, caps, writable=writable, slots=slots)
        else:
            self._template = Files(engine, database, folder, caps, writable=writable)
        self._way = self._template

    def spawn(self, context: ToolContext) -> Tool:
        """This episode's own instance."""
        instance = super().spawn(context)
        assert isinstance(instance, Sql)
        instance._way = self._template.spawn(context)
        return instance

    async def close(self) -> None:
        """Give back what the episode was lent."""
        await self._way.close()

    async def call(self, query: str = "", table: str = "") -> Observation:
        """Run one SQL statement on the database and show its rows. Without arguments, show the schema.

        Args:
            query: one SQL statement
            table: instead of a statement, the name of a table whose first rows are shown
        """
        if query and table:
            raise ToolError("Give a query or a table, not both.")
        if query:
            found = await self._way.query(query)
        elif table:
            found = await self._way.sample(table, SAMPLE_ROWS)
        else:
            found = await self._way.schema()
        return Observation(found.text(), metadata=found.model_dump(include={"columns", "rows", "more"}))

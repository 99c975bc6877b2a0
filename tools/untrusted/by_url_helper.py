"""The program that holds one connection for `by_url`, which sends it: requests as JSON lines on standard
input, answers on output.

The first line says which URL; each further one is answered in turn. At the end of input the transaction is
undone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult

    from agentrl.tools.untrusted.guest._rows import Rows

MOST_TABLES = 200
MOST_MESSAGE = 500

_READING = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN", "DESCRIBE", "DESC"})
_STREAMED = frozenset({"SELECT", "WITH", "VALUES", "TABLE"})
_WRITING = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"})
_TABLES = frozenset({"CREATE", "ALTER", "DROP", "TRUNCATE"})
_LEADING = re.compile(r"(?:\s|\(|--[^\r\n]*[\r\n])*")
_WORD = re.compile(r"[A-Za-z]+")
_READ_ONLY_CODES = {"25006", "42501", 1792, 1142, 1044}
"""PostgreSQL's and MySQL's: the transaction only reads, or the user may not."""


@dataclass(frozen=True)
class Held:
    """How a dialect holds an episode.

    Args:
        begin: statements at the start of a connection; ``read`` those of one that may only read.
            ``{seconds}`` and ``{milliseconds}`` stand for the time limit of a statement.
        who: asks for the connection's number on the server.
        end: ends the connection of that ``{number}``, from another one.
        undoes_tables: whether a transaction undoes CREATE, ALTER and DROP. Where it does not they are
            refused.
    """

    begin: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    who: str = ""
    end: str = ""
    undoes_tables: bool = False


HELD: Mapping[str, Held] = MappingProxyType(
    {
        "postgresql": Held(
            begin=("SET statement_timeout = {milliseconds}", "SET idle_in_transaction_session_timeout = 0"),
            read=("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",),
            who="SELECT pg_backend_pid()",
            end="SELECT pg_terminate_backend({number})",
            undoes_tables=True,
        ),
        "mysql": Held(
            begin=("SET SESSION max_execution_time = {milliseconds}",),
            read=("SET SESSION TRANSACTION READ ONLY",),
            who="SELECT connection_id()",
            end="KILL {number}",
        ),
        "mariadb": Held(
            begin=("SET SESSION max_statement_time = {seconds}",),
            read=("SET SESSION TRANSACTION READ ONLY",),
            who="SELECT connection_id()",
            end="KILL {number}",
        ),
    }
)
"""By dialect. Others have a transaction alone: what reads is told by its first word, time by the clock
outside."""


class _Told(Exception):
    """Something that goes back to whoever asked."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Holder:
    """A connection with its transaction."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        import sqlalchemy
        from sqlalchemy import exc

        self.writable = bool(request.get("writable"))
        try:
            engine = sqlalchemy.create_engine(request["url"], poolclass=sqlalchemy.NullPool)
        except (ImportError, exc.ArgumentError) as problem:
            raise _Told("config", f"The option 'url' cannot be used: {problem}.") from None
        try:
            self.connection: Connection = engine.connect()
            # Whether a server is MariaDB is known once connected: URLs call it mysql too.
            is_mariadb = getattr(engine.dialect, "is_mariadb", False)
            self._held = HELD.get("mariadb" if is_mariadb else engine.dialect.name, Held())
            self._begin(request)
        except exc.SQLAlchemyError as problem:
            raise _Told("infrastructure", f"The database cannot be used: {_first_line(problem)}") from None

    def _begin(self, request: Mapping[str, Any]) -> None:
        self.number: int | None = None
        if "end" in request:
            if self._held.end:
                self._own(self._held.end.format(number=int(request["end"])))
            return
        limits = {"seconds": request["seconds"], "milliseconds": int(request["seconds"] * 1000)}
        for statement in (*self._held.begin, *(() if self.writable else self._held.read)):
            self._own(statement.format(**limits))
        if self._held.who:
            self.number = int(self._own(self._held.who).scalar_one())
        self.connection.commit()  # the settings are the connection's; what follows is undone
        self.connection.begin()

    def _own(self, statement: str) -> CursorResult[Any]:
        return self.connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A table, as JSON data."""
        from sqlalchemy import exc

        began = time.monotonic()
        try:
            answer: dict[str, Any] = getattr(self, f"_{request['do']}")(request)
            if not self.writable:
                self.connection.rollback()
            return answer
        except exc.SQLAlchemyError as problem:
            told = _told(problem, time.monotonic() - began, request["seconds"])
            if not self.writable and not self.connection.invalidated:
                with contextlib.suppress(exc.SQLAlchemyError):
                    self.connection.rollback()
            raise told from None

    def _query(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return self._run(*self._checked(request["sql"]), request)

    def _checked(self, sql: str) -> tuple[str, str]:
        """The statement's first word and the statement, if it is one and of a kind that is allowed."""
        statement = sql.strip().rstrip(";").rstrip()
        if ";" in statement:
            raise _Told("refused", "Not allowed: give one statement, without ';' in it.")
        leading = _LEADING.match(statement)
        word = _WORD.match(statement, leading.end() if leading else 0)
        kind = word[0].upper() if word else "what begins with no word"
        allowed = _READING | (_WRITING if self.writable else frozenset())
        if self.writable and self._held.undoes_tables:
            allowed |= _TABLES
        if kind not in allowed:
            raise _Told("refused", f"Not allowed: {kind}. Allowed are {', '.join(sorted(allowed))}.")
        return kind, statement

    def _run(self, kind: str, statement: str, request: Mapping[str, Any]) -> dict[str, Any]:
        if not self.writable:  # row by row where the driver can; what writes, or may, cannot be read so
            return self._rows(statement, request, stream=kind in _STREAMED)
        with self.connection.begin_nested():
            return self._rows(statement, request, stream=False)

    def _rows(self, statement: str, request: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
        options = {"no_parameters": True, "stream_results": stream, "max_row_buffer": 64}
        result = self.connection.exec_driver_sql(statement, execution_options=options)
        try:
            if not result.returns_rows:
                return {"columns": [], "rows": [], "more": False, "changed": max(-1, result.rowcount)}
            rows = Rows(*request["caps"])
            columns = [str(name)[:200] for name in result.keys()]  # noqa: SIM118 - a result is no dict
            for row in result:
                if not rows.add(tuple(row)):
                    break
            return {"columns": columns, "rows": rows.rows, "more": rows.more, "changed": -1}
        finally:
            result.close()

    def _schema(self, request: Mapping[str, Any]) -> dict[str, Any]:
        import sqlalchemy

        look = sqlalchemy.inspect(self.connection)
        names = [*look.get_table_names(), *look.get_view_names()]
        rows = Rows(*request["caps"])
        for name in names[:MOST_TABLES]:
            columns = ", ".join(f"{column['name']} {column['type']}" for column in look.get_columns(name))
            if not rows.add((name, columns)):
                break
        return {
            "columns": ["name", "columns"],
            "rows": rows.rows,
            "more": rows.more or len(names) > MOST_TABLES,
        }

    def _sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        import sqlalchemy

        schema, _, name = request["table"].rpartition(".")
        table = sqlalchemy.table(name, schema=schema or None)
        sample = sqlalchemy.select(sqlalchemy.text("*")).select_from(table).limit(int(request["first"]))
        text = str(sample.compile(self.connection, compile_kwargs={"literal_binds": True}))
        return self._run("SELECT", text, request)


def _told(problem: Any, took: float, seconds: float) -> _Told:
    """An error of the driver's or SQLAlchemy's, for whoever it concerns."""
    if not hasattr(problem, "orig"):
        return _Told("invalid", _first_line(problem))
    code = getattr(problem.orig, "sqlstate", None) or getattr(problem.orig, "pgcode", None)
    if code is None and problem.orig is not None and problem.orig.args:
        code = problem.orig.args[0]
    if took >= seconds:
        return _Told("interrupted", f"Interrupted: the statement ran longer than {seconds:g} s.")
    if problem.connection_invalidated:
        return _Told(
            "infrastructure", f"The connection to the database was lost: {_first_line(problem.orig)}"
        )
    if code in _READ_ONLY_CODES:
        return _Told("refused", f"Not allowed: {_first_line(problem.orig)}")
    return _Told("invalid", f"The database says: {_first_line(problem.orig)}")


def _first_line(problem: BaseException | None) -> str:
    lines = str(problem).strip().splitlines()
    return lines[0][:MOST_MESSAGE] if lines else type(problem).__name__


def serve() -> None:
    """Answer until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a driver prints is no answer
    holder: Holder | None = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if holder is None:
                resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
                holder = Holder(request)
                reply: dict[str, Any] = {"number": holder.number}
            else:
                reply = {"answer": holder.answer(request)}
        except _Told as told:
            reply = {"kind": told.kind, "message": str(told)[:MOST_MESSAGE]}
        except MemoryError:
            os._exit(1)  # nothing is known of a driver that ran out of memory
        except Exception as problem:  # drivers raise what they like
            kind = "infrastructure" if holder is None else "invalid"
            reply = {"kind": kind, "message": f"{type(problem).__name__}: {_first_line(problem)}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
    if holder is not None:
        holder.connection.close()


if __name__ == "__main__":
    serve()

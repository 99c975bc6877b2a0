"""Queries on SQLite and DuckDB files in a session's working folder, run inside the session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agentrl.tools.untrusted.inside import LOADING_SECONDS, ask
from agentrl.tools.untrusted.table import Caps, Table

if TYPE_CHECKING:
    from agentrl.sandbox import Session

Engine = Literal["sqlite", "duckdb"]
MOST_DATABASE_BYTES = 256 << 20


async def query(
    session: Session, engine: Engine, path: str, sql: str, *, writable: bool = False, caps: Caps | None = None
) -> Table:
    """Run one statement on a database file.

    SQLite refuses what attaches, loads, vacuums or sets, and unless ``writable`` what writes; DuckDB refuses
    what reaches other files, loads or sets. Both do it by the engine's own means, not by reading the text.

    Args:
        session: where the file lies. Each call opens it anew; an unfinished transaction is rolled back.
        engine: the kind of file.
        path: relative to the working folder. With ``writable``, DuckDB makes a file that is not there.
        sql: one statement.
        writable: whether it may change the file.
        caps: of time and of the answer; by default those of :class:`Caps`.

    Raises:
        Refused: the statement may not do what it does.
        Interrupted: it was stopped for time or memory.
        Invalid: it is no statement of this engine, it failed, or the file is no database.
        Unanswered: the code in the session gave no answer.
    """
    caps = caps or Caps()
    request = {
        "path": path,
        "sql": sql,
        "writable": writable,
        "most_bytes": MOST_DATABASE_BYTES,
        "caps": [caps.rows, caps.bytes, caps.value_bytes],
    }
    loading = LOADING_SECONDS if engine == "duckdb" else 0.0
    return await ask(session, engine, request, Table, seconds=caps.seconds, loading=loading)

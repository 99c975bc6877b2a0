"""SQLite and DuckDB files are queried inside a sandbox, and a statement does no more than it may."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import samples

from agentrl.sandbox import Limits, Sandbox, Session
from agentrl.tools.untrusted import Interrupted, Invalid, Refused, Unanswered
from agentrl.tools.untrusted.embedded import query
from agentrl.tools.untrusted.table import Caps

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHORT = Caps(seconds=0.5)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def session(sandbox: Sandbox) -> AsyncIterator[Session]:
    """One for all tests here: what one breaks shows in the next."""
    limits = Limits(wall_seconds=60, cpu_seconds=60)
    async with await sandbox.create(limits, preload=("sqlite3", "duckdb")) as session:
        await session.put("a.db", samples.sqlite_database())
        await session.put("a.duckdb", samples.duckdb_database())
        yield session


@pytest.mark.parametrize(("engine", "path"), [("sqlite", "a.db"), ("duckdb", "a.duckdb")])
async def test_a_query_gives_its_rows_within_the_caps(session: Session, engine, path):
    table = await query(session, engine, path, "SELECT a, b, NULL AS c, 0.5 AS d FROM t ORDER BY a LIMIT 2")
    assert table.columns == ["a", "b", "c", "d"] and not table.more
    assert [row[:3] for row in table.rows] == [[0, "row 0", None], [1, "row 1", None]]
    few = await query(session, engine, path, "SELECT * FROM t", caps=Caps(rows=7))
    assert few.more and len(few.rows) == 7
    small = await query(session, engine, path, "SELECT * FROM t", caps=Caps(rows=2000, bytes=200))
    assert small.more and 0 < len(small.rows) < 20
    cut = await query(
        session, engine, path, "SELECT replace('aaaaaaaaaa', 'a', 'bbbbbbbbbb')", caps=Caps(value_bytes=5)
    )
    assert cut.rows == [["bbbbb…"]] and cut.more
    assert (await query(session, engine, path, "SELECT a FROM t WHERE a < 0")).columns == ["a"]


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("ATTACH ':memory:' AS x", Refused),
        ("DETACH main", Refused),
        ("PRAGMA journal_mode = DELETE", Refused),
        ("PRAGMA writable_schema = ON", Refused),
        ("PRAGMA trusted_schema = ON", Refused),
        ("PRAGMA hard_heap_limit = 0", Refused),
        ("PRAGMA user_version = 3", Refused),
        ("SELECT load_extension('/tmp/x.so')", Refused),
        ("SELECT * FROM pragma_journal_mode", Refused),
        ("VACUUM", Refused),
        ("VACUUM INTO '/tmp/out.db'", Refused),
        ("CREATE VIRTUAL TABLE v USING fts5(x)", Refused),
        ("SELECT " + "(" * 1500 + "1" + ")" * 1500, Invalid),
        ("SELECT 1; SELECT 2", Invalid),
        ("SELEC", Invalid),
        ("UPDATE sqlite_master SET sql = 'x'", Invalid),
        ("SELECT count(*) FROM t a, t b, t c, t d", Interrupted),
        ("SELECT printf('%.*c', 1500000000, 'x')", Interrupted),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("writable", [False, True])
async def test_what_sqlite_may_not_do(session: Session, statement: str, kind, writable: bool):
    with pytest.raises(kind):
        await query(session, "sqlite", "a.db", statement, writable=writable, caps=SHORT)


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA table_info(t)",
        "SELECT * FROM pragma_table_info('t')",
        "PRAGMA user_version",
        "SELECT * FROM sqlite_master",
    ],
)
async def test_what_sqlite_may_say_of_a_database(session: Session, statement: str):
    assert (await query(session, "sqlite", "a.db", statement)).rows


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("SET enable_external_access = true", Refused),
        ("SET memory_limit = '10GB'", Refused),
        ("RESET lock_configuration", Refused),
        ("SELECT * FROM read_csv('/etc/passwd')", Refused),
        ("SELECT * FROM read_text('a.db')", Refused),
        ("SELECT * FROM '/etc/passwd'", (Refused, Invalid)),
        ("SELECT * FROM glob('/*')", Refused),
        ("COPY t TO 'out.csv'", Refused),
        ("EXPORT DATABASE 'out'", Refused),
        ("ATTACH ':memory:' AS x", Refused),
        ("INSTALL httpfs", Refused),
        ("LOAD httpfs", Refused),
        ("CALL pragma_version()", Refused),
        ("SELECT 1; SELECT 2", Invalid),
        ("SELEC", Invalid),
        ("SELECT count(*) FROM range(100000000) a, range(1000) b", Interrupted),
        ("SELECT * FROM range(1000000000) ORDER BY hash(range)", Interrupted),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_duckdb_may_not_do(session: Session, statement: str, kind):
    for writable in (False, True):
        with pytest.raises(kind):
            await query(session, "duckdb", "a.duckdb", statement, writable=writable, caps=SHORT)


@pytest.mark.parametrize(
    ("engine", "data"), [("sqlite", samples.sqlite_database), ("duckdb", samples.duckdb_database)]
)
async def test_a_file_changes_only_where_it_may(session: Session, engine, data):
    name = f"b.{engine}"
    await session.put(name, data())
    count = "SELECT count(*) FROM t"
    for statement in ("DELETE FROM t WHERE a >= 5", "DROP TABLE t", "CREATE TABLE u (x INTEGER)"):
        with pytest.raises(Refused):
            await query(session, engine, name, statement)
    assert (await query(session, engine, name, count)).rows == [[2000]]
    await query(session, engine, name, "DELETE FROM t WHERE a >= 5", writable=True)
    assert (await query(session, engine, name, count)).rows == [[5]]


async def test_a_file_that_is_no_database_is_told(session: Session):
    for engine in ("sqlite", "duckdb"):
        with pytest.raises(Invalid, match="There is no database file"):
            await query(session, engine, "none", "SELECT 1")
        await session.put("text", b"not a database, for sure; " * 400)
        with pytest.raises(Invalid):
            await query(session, engine, "text", "SELECT * FROM t")


async def test_libraries_are_not_taken_from_the_guest_s_folder(session: Session):
    await session.put("json.py", b"raise SystemExit('mine')")
    await session.put("urllib/parse.py", b"raise SystemExit('mine')")
    await session.put("sqlite3.py", b"raise SystemExit('mine')")
    assert (await query(session, "sqlite", "a.db", "SELECT 7")).rows == [[7]]
    await session.exec("rm -r json.py urllib sqlite3.py")


async def test_an_answer_that_does_not_fit_the_session_s_output_is_told(sandbox: Sandbox):
    async with await sandbox.create(Limits(output_bytes=1000)) as session:
        await session.put("a.db", samples.sqlite_database())
        with pytest.raises(Unanswered, match="larger than the output"):
            await query(session, "sqlite", "a.db", "SELECT * FROM t")

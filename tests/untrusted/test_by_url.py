"""Databases by URL: an episode's changes are its own and undone, and what it runs is bounded from outside."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import psycopg
import pytest
import pytest_asyncio

from agentrl import ConfigError, InfrastructureError, Observation, ToolContext
from agentrl.tools.sql import Sql
from agentrl.tools.untrusted import Interrupted, Invalid, Refused

pytestmark = pytest.mark.asyncio(loop_scope="session")

Begin = Callable[..., Awaitable[Sql]]


@pytest.fixture(scope="session")
def url(dsn: str) -> str:
    """A user without many rights, and a schema of its own kind."""
    parts = dict(part.split("=", 1) for part in dsn.split())
    with psycopg.connect(dsn, dbname="shop", autocommit=True) as owner:
        owner.execute("CREATE ROLE guest LOGIN")
        owner.execute("CREATE SCHEMA bay AUTHORIZATION guest")
        owner.execute("CREATE TABLE bay.ships (a int, name text)")
        owner.execute("INSERT INTO bay.ships SELECT n, 'ship ' || n FROM generate_series(0, 1999) n")
        owner.execute("ALTER TABLE bay.ships OWNER TO guest")
        owner.execute("CREATE SEQUENCE bay.tide")
        owner.execute("ALTER SEQUENCE bay.tide OWNER TO guest")
        owner.execute("ALTER ROLE guest SET search_path = bay, public")
    return f"postgresql+psycopg://guest@/shop?host={parts['host']}"


@pytest_asyncio.fixture(loop_scope="session")
async def begin(url: str) -> AsyncIterator[Begin]:
    """Begins an episode of a tool."""
    async with AsyncExitStack() as stack:

        async def begun(tool: Sql | None = None, **options: object) -> Sql:
            own = (tool or Sql(url=url, **options)).spawn(ToolContext())  # type: ignore[arg-type]
            assert isinstance(own, Sql)
            await own.open()
            stack.push_async_callback(own.close)
            return own

        yield begun


async def use(tool: Sql, query: str = "", table: str = "") -> Observation:
    return Observation.of(await tool.invoke({"query": query, "table": table}))


async def rows(tool: Sql, query: str) -> list[list[object]]:
    found: list[list[object]] = (await use(tool, query)).metadata["rows"]
    return found


def connections(dsn: str) -> int:
    with psycopg.connect(dsn) as owner:
        found = owner.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'guest'").fetchone()
    assert found is not None
    return int(found[0])


async def gone(dsn: str) -> None:
    """Waits until the server has noticed that nobody is connected any more."""
    async with asyncio.timeout(60):
        while connections(dsn):
            await asyncio.sleep(0.05)


async def test_schema_sample_and_query(begin: Begin):
    tool = await begin(rows=2, output_bytes=500)
    assert "ships | a INTEGER, name TEXT" in (await use(tool)).text
    assert (await use(tool, table="ships")).metadata["rows"][0] == [0, "ship 0"]
    assert (await use(tool, table="bay.ships")).metadata["columns"] == ["a", "name"]
    found = await use(tool, "-- the first ones\nSELECT * FROM ships WHERE name LIKE 'ship %' ORDER BY a;")
    assert found.metadata["rows"] == [[0, "ship 0"], [1, "ship 1"]] and found.metadata["more"]
    assert await rows(tool, "(SELECT NULL, 0.5::float8, 'a,b', true)") == [[None, 0.5, "a,b", "true"]]
    with pytest.raises(Invalid, match="relation"):
        await use(tool, table='ships" WHERE true --')
    with pytest.raises(Invalid, match="syntax"):
        await use(tool, "SELECT FROM WHERE")
    assert await rows(tool, "SELECT count(*) FROM ships") == [
        [2000]
    ]  # a failure leaves the connection usable


@pytest.mark.parametrize("writable", [False, True])
async def test_what_would_end_or_leave_the_transaction_is_refused(begin: Begin, writable):
    tool = await begin(writable=writable)
    for statement in (
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "SELECT 1; COMMIT",
        "/* SELECT */ COMMIT",
        "/* /* */ SELECT */ COMMIT",
        "-- SELECT\rCOMMIT -- \n",
        "SET statement_timeout = 0",
        "DO $$ BEGIN END $$",
        "CALL p()",
        "COPY ships TO '/tmp/x'",
        " ",
        ";",
    ):
        with pytest.raises(Refused, match="Not allowed"):
            await use(tool, statement)


async def test_who_may_only_read_changes_nothing(begin: Begin):
    tool = await begin()
    for statement in (
        "DELETE FROM ships",
        "WITH gone AS (DELETE FROM ships RETURNING 1) SELECT * FROM gone",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "CREATE TABLE x (a int)",
        "SELECT nextval('tide')",
    ):
        with pytest.raises((Refused, Invalid)):
            await use(tool, statement)
    assert await rows(tool, "SELECT count(*) FROM ships") == [[2000]]


async def test_changes_are_an_episodes_own_and_undone(begin: Begin, url: str, dsn: str):
    one = await begin(writable=True)
    assert (await use(one, "DELETE FROM ships WHERE a >= 5")).text == "Done; 1995 rows changed."
    await use(one, "CREATE TABLE extra AS SELECT 1 AS x")
    with pytest.raises(Invalid):
        await use(one, "SELECT x / 0 FROM extra")
    assert await rows(one, "SELECT count(*), (SELECT x FROM extra) FROM ships") == [[5, 1]]
    other = await begin()
    assert await rows(other, "SELECT count(*) FROM ships") == [[2000]]
    await one.close()
    await other.close()
    await gone(dsn)
    last = await begin()
    assert await rows(last, "SELECT count(*) FROM ships") == [[2000]]
    with pytest.raises(Invalid, match="extra"):
        await use(last, "SELECT * FROM extra")


async def test_the_servers_time_limit_stops_a_statement(begin: Begin):
    tool = await begin(writable=True, seconds=3.0)
    await use(tool, "DELETE FROM ships WHERE a > 0")
    with pytest.raises(Interrupted, match="longer than 3 s"):
        await use(tool, "SELECT pg_sleep(600)")
    assert await rows(tool, "SELECT count(*) FROM ships") == [[1]]  # what came before is kept


async def test_a_statement_that_lifts_the_limit_is_ended_from_outside(begin: Begin, dsn: str):
    tool = await begin(writable=True, seconds=3.0)
    await use(tool, "DELETE FROM ships WHERE a > 0")
    await use(tool, "SELECT set_config('statement_timeout', '0', false)")
    with pytest.raises(Interrupted, match="undone"):
        await use(tool, "SELECT pg_sleep(600)")
    await gone(dsn)  # on the server too
    assert await rows(tool, "SELECT count(*) FROM ships") == [[2000]]


@pytest.mark.parametrize("writable", [False, True])
async def test_answers_are_bounded(begin: Begin, writable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agentrl.tools.untrusted.by_url.MEMORY_BYTES", 300 << 20)
    tool = await begin(writable=writable, rows=3, output_bytes=200, seconds=60.0)
    many = await use(tool, "SELECT n FROM generate_series(1, 100000) n")
    assert many.metadata["rows"] == [[1], [2], [3]] and many.metadata["more"]
    long = await use(tool, "SELECT repeat('x', 1000000)")
    assert len(long.text) < 3000
    with pytest.raises((Interrupted, Invalid)):  # more than the helper's memory
        await use(tool, "SELECT repeat('x', 150000000)")
    assert await rows(tool, "SELECT count(*) FROM ships") == [[2000]]


async def test_no_more_connections_than_slots(begin: Begin, url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agentrl.tools.untrusted.by_url.WAIT_SECONDS", 0.2)
    tool = Sql(url=url, slots=1)
    first = await begin(tool)
    assert await rows(first, "SELECT 1") == [[1]]
    second = await begin(tool)
    with pytest.raises(InfrastructureError, match="more slots"):
        await use(second, "SELECT 1")
    await first.close()
    assert await rows(second, "SELECT 1") == [[1]]


async def test_a_server_that_cannot_be_reached_or_goes_away(begin: Begin, dsn: str):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        tool = await begin(Sql(url=f"postgresql+psycopg://guest@127.0.0.1:{port}/shop"))
        with pytest.raises(InfrastructureError, match="refused"):
            await use(tool, "SELECT 1")
    tool = await begin()
    await use(tool, "SELECT 1")
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'guest'")
    with pytest.raises(InfrastructureError, match="lost"):
        await use(tool, "SELECT 1")


async def test_a_call_that_is_given_up_leaves_nothing_behind(begin: Begin, dsn: str):
    tool = await begin(seconds=60.0)
    await use(tool, "SELECT 1")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await use(tool, "SELECT pg_sleep(600)")
    await tool.close()
    with psycopg.connect(dsn, autocommit=True) as owner:  # as the server's own limit will
        owner.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'guest'")
    await gone(dsn)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("no url", "is no URL"),
        ("mssql+pyodbc://sa@host/shop", "'mssql'"),
        ("sqlite://", "names no file"),
        ("duckdb:///:memory:", "names no file"),
    ],
)
async def test_urls_that_cannot_be_used(url, words):
    with pytest.raises(ConfigError, match=words):
        Sql(url=url)


async def test_a_driver_that_is_not_installed(begin: Begin):
    tool = await begin(Sql(url="oracle+cx_oracle://guest@host/shop"))
    with pytest.raises(ConfigError, match="cx_Oracle"):
        await use(tool, "SELECT 1")

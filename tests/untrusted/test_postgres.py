"""A database lent to an episode: it can be used, and nothing beyond it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio

from agentrl import ConfigError, InfrastructureError, ToolError
from agentrl.sandbox.conformance import Attack, read_attacks
from agentrl.tools.untrusted import Interrupted, Invalid, Refused
from agentrl.tools.untrusted.postgres import PostgresPool, Slot
from agentrl.tools.untrusted.table import Caps

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def pool(dsn: str) -> AsyncIterator[PostgresPool]:
    async with PostgresPool(dsn, "shop") as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def slot(pool: PostgresPool) -> AsyncIterator[Slot]:
    async with pool.slot() as slot:
        yield slot


async def test_a_query_gives_its_rows(slot: Slot):
    table = await slot.query(
        "SELECT a, b, 0.5::float8 AS half, NULL AS none, '%s' AS s FROM t ORDER BY a LIMIT 2"
    )
    assert table.columns == ["a", "b", "half", "none", "s"]
    assert table.rows == [[0, "row 0", 0.5, None, "%s"], [1, "row 1", 0.5, None, "%s"]] and not table.more


async def test_an_answer_without_rows_has_columns(slot: Slot):
    table = await slot.query("SELECT a, b FROM t WHERE a < 0")
    assert (table.columns, table.rows) == (["a", "b"], [])


async def test_rows_and_bytes_are_bounded(slot: Slot):
    assert len((await slot.query("SELECT * FROM t", Caps(rows=7))).rows) == 7
    many = await slot.query("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)", Caps(bytes=5000))
    assert many.more and len(many.rows) == 4
    cut = await slot.query("SELECT repeat('x', 5000)", Caps(value_bytes=10))
    assert cut.more and cut.rows == [["x" * 10 + "…"]]
    with pytest.raises(Refused, match="larger than an answer may be"):
        await slot.query("SELECT repeat('x', 200000000)", Caps(seconds=60))


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("SET TRANSACTION READ WRITE; DELETE FROM t", Invalid, "multiple commands"),
        ("DELETE FROM t", Refused, "permission denied"),
        ("CREATE TABLE u (a int)", Refused, "permission denied"),
        ("CREATE TEMP TABLE u (a int)", Refused, "permission denied"),
        ("SELECT pg_read_file('/etc/passwd')", Refused, "permission denied"),
        ("SELECT pg_ls_dir('/')", Refused, "permission denied"),
        ("SELECT rolpassword FROM pg_authid", Refused, "permission denied"),
        ("SELECT lo_import('/etc/passwd')", Refused, "permission denied"),
        ("SELECT lo_creat(-1)", Refused, "permission denied"),
        ("SELECT lo_from_bytea(0, 'x')", Refused, "permission denied"),
        ("COPY t TO PROGRAM 'id'", Refused, "must be superuser"),
        ("COPY t TO '/tmp/t'", Refused, "must be superuser"),
        ("COPY t FROM '/etc/passwd'", Refused, "must be superuser"),
        ("CREATE EXTENSION dblink", Refused, "permission denied"),
        ("SET ROLE owner", Refused, "permission denied"),
        ("SET temp_file_limit = -1", Refused, "permission denied"),
        ("ALTER SYSTEM SET fsync = on", Refused, "permission denied"),
        ("SELECT pg_advisory_lock(1)", Refused, "permission denied"),
        ("SELECT pg_advisory_xact_lock(g) FROM generate_series(1, 1000000) g", Refused, "permission denied"),
        ("DO 'BEGIN SET work_mem = ''10GB''; END'", Refused, "permission denied for language"),
        ("SELECT set_config('work_mem', '10GB', true)", Refused, "permission denied"),
        ("SELEC", Invalid, "syntax error"),
        ("SELECT 1; SELECT 2", Invalid, "multiple commands"),
        ("SELECT 1 / 0", Invalid, "division by zero"),
        ("COPY t TO STDOUT", Invalid, "COPY"),
        ("COPY t FROM STDIN", Refused, "permission denied"),
    ],
)
async def test_what_a_role_may_not_do(slot: Slot, statement: str, kind, words: str):
    with pytest.raises(kind, match=words):
        await slot.query(statement)
    assert (await slot.query("SELECT count(*) FROM t")).rows == [[2000]]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("SELECT pg_sleep(600)", "longer than 0.5 s"),
        ("SELECT count(*) FROM t a, t b, t c, t d", "longer than 0.5 s"),
        ("SELECT stubborn()", "longer than 0.5 s"),
    ],
)  # fmt: skip
async def test_what_runs_too_long_is_stopped(slot: Slot, statement: str, words: str):
    with pytest.raises(Interrupted, match=words):
        await slot.query(statement, Caps(seconds=0.5))


def _shared_attacks() -> list[Attack]:
    folder = os.environ.get("AGENTRL_SHARED") or Path(__file__).resolve().parents[2] / "../shared"
    file = Path(folder) / "attacks" / "attacks.jsonl"
    return [each for each in (read_attacks(file) if file.exists() else ()) if each.tool == "postgres"]


@pytest.mark.parametrize("attack", _shared_attacks(), ids=lambda attack: attack.name)
async def test_shared_attacks(slot: Slot, attack: Attack):
    status = "ok"
    try:
        await slot.query(attack.code, Caps(seconds=10))
    except ToolError:
        status = "error"
    assert status in attack.ends
    assert (await slot.query("SELECT count(*) FROM t")).rows == [[2000]]


async def test_sorting_on_disk_is_bounded(slot: Slot):
    big = "SELECT count(*) FROM (SELECT md5(i::text) m FROM generate_series(1, 50000000) i ORDER BY 1) s"
    with pytest.raises(Interrupted, match="temporary file size exceeds|longer than"):
        await slot.query(big, Caps(seconds=60))


async def test_nothing_of_one_call_is_there_for_the_next(slot: Slot):
    await slot.query("SET statement_timeout = 0")
    await slot.query("PREPARE p AS SELECT 1")
    with pytest.raises(Invalid, match="does not exist"):
        await slot.query("EXECUTE p")
    assert (await slot.query("SHOW statement_timeout", Caps(seconds=9))).rows == [["9s"]]


async def test_slots_see_and_hurt_nothing_of_each_other(pool: PostgresPool, dsn: str):
    async with pool.slot() as one, pool.slot() as other:
        assert one.name != other.name
        running = asyncio.create_task(one.query("SELECT pg_sleep(2), 7", Caps(seconds=60)))
        seen = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{one.name}' AND query LIKE '%sleep%'"
        async with await psycopg.AsyncConnection.connect(dsn) as owner:
            while (await (await owner.execute(seen.encode())).fetchone()) == (0,):
                await asyncio.sleep(0.02)
                await owner.rollback()
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND "
        assert (await other.query(kill + "usename = current_user")).rows == []
        with pytest.raises(Refused, match="permission denied|must be"):
            await other.query(kill + f"usename = '{one.name}'")
        assert (
            await other.query(f"SELECT query FROM pg_stat_activity WHERE usename = '{one.name}'")
        ).rows in (
            [["<insufficient privilege>"]],
            [],
        )
        assert (await running).rows[0][1] == 7


async def test_a_slot_s_role_can_connect_to_its_own_database_alone(pool: PostgresPool, dsn: str):
    async with pool.slot() as one, pool.slot() as other:
        for name in (other.name, pool._base):
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                await psycopg.AsyncConnection.connect(dsn, user=one.name, password=one.password, dbname=name)


async def test_a_writable_slot_is_changed_for_itself_alone(dsn: str):
    async with PostgresPool(dsn, "shop", writable=True, slots=2) as pool:
        async with pool.slot() as one, pool.slot() as other:
            assert (await one.query("DELETE FROM t WHERE a >= 5")).changed == 1995
            await one.query("CREATE TABLE u AS SELECT 1 AS x")
            assert (await one.query("SELECT count(*) FROM t")).rows == [[5]]
            assert (await other.query("SELECT count(*) FROM t")).rows == [[2000]]
            with pytest.raises(Refused, match="permission denied|must be owner"):
                await one.query("DROP TABLE t")
        async with pool.slot() as again:
            assert (await again.query("SELECT count(*) FROM t")).rows == [[2000]]


async def test_slots_are_bounded_and_come_free(dsn: str):
    async with PostgresPool(dsn, "shop", slots=1, wait_seconds=0.2) as pool:
        async with pool.slot():
            with pytest.raises(InfrastructureError, match="No PostgreSQL slot came free"):
                async with pool.slot():
                    pass
        async with pool.slot() as slot:
            assert (await slot.query("SELECT 1")).rows == [[1]]


async def test_what_a_pool_left_is_dropped_by_the_next(dsn: str):
    names = (
        "SELECT datname FROM pg_database WHERE datname LIKE 'left%' "
        "UNION SELECT rolname FROM pg_roles WHERE rolname LIKE 'left%'"
    )
    left = PostgresPool(dsn, "shop", prefix="left")
    await left.__aenter__()
    lent = left.slot()
    slot = await lent.__aenter__()
    async with PostgresPool(dsn, "shop", prefix="left"):
        assert (await slot.query("SELECT 1")).rows == [[1]], "another pool that lives is left alone"
    await left._close()  # as if its process had been killed
    async with PostgresPool(dsn, "shop", prefix="left"):
        pass
    with psycopg.connect(dsn) as owner:
        assert owner.execute(names).fetchall() == []
    with pytest.raises(InfrastructureError):  # it finds its connection closed
        await lent.__aexit__(None, None, None)


async def test_a_server_that_cannot_serve_is_told(dsn: str, tmp_path):
    with pytest.raises(ConfigError, match="cannot be reached"):
        async with PostgresPool(f"host={tmp_path}", "shop"):
            pass
    with pytest.raises(ConfigError, match="'none' cannot be cloned"):
        async with PostgresPool(dsn, "none"):
            pass
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("CREATE ROLE plain LOGIN")
    with pytest.raises(ConfigError, match="superuser"):
        async with PostgresPool(dsn.replace("owner", "plain"), "shop"):
            pass

"""One real sandbox for all tests of this folder; a session of its own for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pg_server
import psycopg
import pytest
import pytest_asyncio

from agentrl.sandbox import Limits, NamespaceSandbox, Sandbox, Session

LIMITS = Limits(wall_seconds=60, cpu_seconds=60)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sandbox() -> AsyncIterator[Sandbox]:
    availability = NamespaceSandbox.availability()
    if not availability.ok:
        pytest.fail(f"untrusted data cannot be handled on this machine: {availability.reason}")
    async with NamespaceSandbox() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def session(sandbox: Sandbox) -> AsyncIterator[Session]:
    async with await sandbox.create(LIMITS) as opened:
        yield opened


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    with pg_server.running_postgres() as dsn:
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute("CREATE DATABASE shop")
        with psycopg.connect(dsn, dbname="shop", autocommit=True) as owner:
            owner.execute("CREATE TABLE t (a int PRIMARY KEY, b text)")
            owner.execute("INSERT INTO t SELECT n, 'row ' || n FROM generate_series(0, 1999) n")
            owner.execute("GRANT ALL ON t TO PUBLIC")
            owner.execute(
                "CREATE FUNCTION stubborn() RETURNS void LANGUAGE plpgsql AS 'BEGIN LOOP "
                "BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END'"
            )
        yield dsn

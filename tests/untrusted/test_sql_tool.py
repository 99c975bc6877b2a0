"""The sql tool: one way to look at and to query three kinds of database, each episode with its own copy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
import samples

from agentrl import ConfigError, DataError, Observation, Task, ToolContext, ToolError
from agentrl.registry import find_tool
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.sandbox import Sandbox
from agentrl.tools.sql import Sql
from agentrl.tools.untrusted import Invalid, Refused

pytestmark = pytest.mark.asyncio(loop_scope="session")

ENGINES = ["sqlite", "duckdb", "postgres"]
Begin = Callable[..., Awaitable[Sql]]


@pytest_asyncio.fixture(loop_scope="session")
async def begin(sandbox: Sandbox) -> AsyncIterator[Begin]:
    """Begins an episode of a tool."""
    async with AsyncExitStack() as stack:

        async def begun(tool: Sql, metadata: Mapping[str, Any] | None = None) -> Sql:
            sessions = EpisodeSessions(sandbox)
            stack.push_async_callback(sessions.close, 5)
            own = tool.spawn(ToolContext(Task("?", metadata=metadata or {}), open_session=sessions.open))
            assert isinstance(own, Sql)
            await own.open()
            stack.push_async_callback(own.close)
            return own

        yield begun


@pytest.fixture(params=ENGINES)
def options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    engine = request.param
    if engine == "postgres":
        return {"engine": engine, "database": "shop", "dsn": request.getfixturevalue("dsn")}
    file = tmp_path / f"a.{engine}"
    file.write_bytes(samples.sqlite_database() if engine == "sqlite" else samples.duckdb_database())
    return {"engine": engine, "database": str(file)}


async def use(tool: Sql, **arguments: str) -> Observation:
    return Observation.of(await tool.invoke(arguments))


async def test_schema_sample_and_query(begin: Begin, options: dict[str, Any]):
    tool = await begin(Sql(**options, rows=2))
    schema = await use(tool)
    assert "t" in schema.text and "a " in schema.text and "b " in schema.text
    sample = await use(tool, table="t")
    assert sample.metadata["columns"] == ["a", "b"] and sample.metadata["rows"][0] == [0, "row 0"]
    found = await use(tool, query="SELECT a, b FROM t WHERE a >= 7 ORDER BY a")
    assert found.text.splitlines() == [
        "a | b",
        "7 | row 7",
        "8 | row 8",
        "(more rows or longer values were left out)",
    ]
    assert found.metadata["more"] and not found.error
    truth = (await use(tool, query="SELECT a > 7 AS x FROM t ORDER BY a LIMIT 1")).metadata["rows"]
    assert truth == [[0 if options["engine"] == "sqlite" else "false"]]
    with pytest.raises(Invalid):
        await use(tool, table='t" WHERE 1; --')
    with pytest.raises(Refused):
        await use(tool, query="DELETE FROM t")
    with pytest.raises(ToolError, match="not both"):
        await use(tool, query="SELECT 1", table="t")


async def test_episodes_change_their_own_copies(begin: Begin, options: dict[str, Any]):
    tool = Sql(**options, writable=True)
    one, other = await begin(tool), await begin(tool)
    await use(one, query="DELETE FROM t WHERE a >= 5")
    count = "SELECT count(*) AS n FROM t"
    assert (await use(one, query=count)).metadata["rows"] == [[5]]
    assert (await use(other, query=count)).metadata["rows"] == [[2000]]


def _made(dsn: str) -> set[str]:
    """Databases and roles of pools."""
    names = "SELECT datname FROM pg_database UNION SELECT rolname FROM pg_roles"
    with psycopg.connect(dsn) as owner:
        return {name for (name,) in owner.execute(names).fetchall() if name.startswith("agentrl_")}


async def test_clones_are_gone_when_no_episode_has_one(dsn: str):
    before = _made(dsn)
    tool = Sql("shop", "postgres", dsn)
    for _ in range(2):
        own = tool.spawn(ToolContext())
        await own.open()
        assert (await own.invoke({"query": "SELECT 1 AS x"})).metadata["rows"] == [[1]]
        assert len(_made(dsn) - before) == 2
        await own.close()
    assert _made(dsn) == before


async def test_a_url_may_name_a_file(begin: Begin, tmp_path: Path):
    for engine, data in (("sqlite", samples.sqlite_database()), ("duckdb", samples.duckdb_database())):
        (tmp_path / engine).write_bytes(data)
        tool = await begin(Sql(url=f"{engine}:///{tmp_path / engine}"))
        assert (await use(tool, query="SELECT count(*) FROM t")).metadata["rows"] == [[2000]]
        with pytest.raises(Refused):
            await use(tool, query="DELETE FROM t")


async def test_each_task_names_its_file_in_a_folder(begin: Begin, tmp_path: Path):
    (tmp_path / "inside").mkdir()
    for name in ("outside.db", "inside/a.db"):
        (tmp_path / name).write_bytes(samples.sqlite_database())
    (tmp_path / "inside" / "link.db").symlink_to(tmp_path / "outside.db")
    tool = Sql(folder=str(tmp_path / "inside"))
    good = await begin(tool, {"database": "a.db"})
    assert (await use(good, query="SELECT count(*) FROM t")).metadata["rows"] == [[2000]]
    for name in ("../outside.db", str(tmp_path / "outside.db"), "link.db"):
        with pytest.raises(DataError, match="outside of"):
            await use(await begin(tool, {"database": name}))
    with pytest.raises(DataError, match="is no file"):
        await use(await begin(tool, {"database": "b.db"}))
    for metadata in ({}, {"database": 3}):
        with pytest.raises(DataError, match="names no database"):
            await use(await begin(tool, metadata))


async def test_what_has_to_be_named(tmp_path: Path):
    with pytest.raises(DataError, match="is no file"):
        Sql(str(tmp_path / "none.db"))
    with pytest.raises(ConfigError, match="'dsn' is needed"):
        Sql("shop", "postgres")
    with pytest.raises(ConfigError, match="'database' and 'url' exclude each other"):
        Sql("shop", url="postgresql://host/shop")
    with pytest.raises(DataError, match="folder of databases"):
        Sql(folder=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="needs the option 'database'"):
        find_tool("agentrl.tools.sql:Sql")

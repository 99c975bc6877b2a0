"""How long a call of the ``sql`` tool takes, beside a script that does the same with sqlite3 alone.

    python -m benchmarks.sql [--rounds 200] [--json]

Both run in the same sandbox session, which has sqlite3 imported, on the same database. The script opens the
file, runs the statement and prints the rows: no limits, no caps, and an answer that anything may have
printed. The first call of each is left out. Rounds take turns, so that what else the machine does falls on
both alike.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from agentrl import ToolContext
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.sandbox import Session, open_sandbox
from agentrl.tools.sql import Sql
from benchmarks.tables import Table, run

ROWS = 20_000
STATEMENTS = {
    "one row": "SELECT count(*) FROM item WHERE price > 10",
    "fifty rows": "SELECT id, name, price FROM item ORDER BY price DESC LIMIT 50",
    "a join": "SELECT a.name, count(*) FROM item a JOIN item b ON b.id = a.id + 1 GROUP BY a.name",
}
SCRIPT = """import sqlite3
for row in sqlite3.connect("database.sqlite").execute({statement!r}):
    print(*row, sep=" | ")
"""


def make(path: Path) -> None:
    """A table of so many rows."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL)")
        database.executemany(
            "INSERT INTO item VALUES (?, ?, ?)",
            ((n, f"item {n % 40}", n * 7 % 1000 / 10) for n in range(ROWS)),
        )
    database.close()


async def milliseconds(work: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await work()
    return 1000 * (time.perf_counter() - started)


async def measure(rounds: int) -> Table:
    """Medians in milliseconds and their ratio, by statement."""
    found: Table = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "items.sqlite")
        make(path)
        async with open_sandbox() as sandbox:
            sessions = EpisodeSessions(sandbox)
            opened: list[Session] = []

            async def open_session(options: Mapping[str, Any]) -> Session:
                opened[:] = [await sessions.open(options)]
                return opened[0]

            tool = Sql(str(path)).spawn(ToolContext(open_session=open_session))
            await tool.invoke({"query": "SELECT 1"})  # copies the file into the session that both use
            [session] = opened
            for name, statement in STATEMENTS.items():
                script = SCRIPT.format(statement=statement)
                ways: tuple[Callable[[], Awaitable[object]], ...] = (
                    lambda statement=statement: tool.invoke({"query": statement}),  # type: ignore[misc]
                    lambda script=script: session.run_script(script),  # type: ignore[misc]
                )
                samples = [[await milliseconds(way) for way in ways] for _ in range(rounds + 1)][1:]
                ours, bare = (statistics.median(column) for column in zip(*samples, strict=True))
                found[name] = {"tool_ms": ours, "sqlite3_ms": bare, "ratio": ours / bare}
            await sessions.close(5)
    return found


if __name__ == "__main__":
    run(
        measure,
        __doc__,
        numbers={"rounds": (200, "samples of each")},
        columns={
            "tool_ms": ("tool p50 ms", ".2f"),
            "sqlite3_ms": ("sqlite3 p50 ms", ".2f"),
            "ratio": ("ratio", ".3f"),
        },
    )

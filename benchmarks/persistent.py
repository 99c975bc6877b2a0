"""Sessions that last: the time of a call, and the memory of a thousand of them.

    python -m benchmarks.persistent [--sessions 1000] [--json]

A cell in a running session is timed beside a bare pipe round trip to a forked child, alternately in one run.
Then that many sessions with numpy and pandas imported are held open at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from contextlib import AsyncExitStack
from pathlib import Path

from agentrl.sandbox import Limits, Session, open_sandbox

ROUNDS = 2000
BATCH = 20


class Echo:
    """A forked child that sends back what it is sent: the round trip that nothing can beat."""

    def __init__(self) -> None:
        inward, self._to = os.pipe()
        self._from, outward = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._to)
            os.close(self._from)
            while data := os.read(inward, 65536):
                os.write(outward, data)
            os._exit(0)
        os.close(inward)
        os.close(outward)

    async def call(self) -> None:
        """One round trip through the event loop, as a session's is."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._from, lambda: None if ready.done() else ready.set_result(None))
        os.write(self._to, b"1 + 1")
        try:
            await ready
        finally:
            loop.remove_reader(self._from)
        os.read(self._from, 65536)

    def close(self) -> None:
        """End the child."""
        os.close(self._to)
        os.waitpid(self._pid, 0)
        os.close(self._from)


async def round_trips(echo: Echo) -> tuple[float, float]:
    """p50 of a cell and of the bare round trip, in milliseconds."""
    async with open_sandbox("namespace") as sandbox, await sandbox.create() as session:
        await session.run_cell("1 + 1")
        cells: list[float] = []
        echoes: list[float] = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            await session.run_cell("1 + 1")
            between = time.perf_counter()
            await echo.call()
            cells.append(1000 * (between - started))
            echoes.append(1000 * (time.perf_counter() - between))
    return statistics.median(cells), statistics.median(echoes)


def used_gib() -> float:
    """Memory of the machine that is in use, in GiB."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return (total - free) / (1 << 20)


async def crowd(count: int) -> tuple[float, float]:
    """GiB that ``count`` sessions take, and seconds to make them."""
    code = "import numpy as np, pandas as pd; int(pd.DataFrame({'x': np.arange(10)}).x.sum())"
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(open_sandbox("namespace", max_sessions=count))
        before, started = used_gib(), time.perf_counter()

        async def one() -> Session:
            session = await sandbox.create(Limits(), preload=("numpy", "pandas"))
            result = await session.run_cell(code)
            assert result.stdout.strip() == "45", result
            return session

        sessions: list[Session] = []
        while len(sessions) < count:
            sessions += await asyncio.gather(*(one() for _ in range(min(BATCH, count - len(sessions)))))
            print(f"\r{len(sessions)} of {count} sessions", end="", flush=True)
        print()
        return used_gib() - before, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="end with the figures as a JSON object")
    options = parser.parse_args()
    echo = Echo()
    try:
        cell, bare = asyncio.run(round_trips(echo))
    finally:
        echo.close()
    print(
        f"p50 of a cell in a session {cell:.3f} ms, of a bare pipe round trip {bare:.3f} ms: "
        f"ratio {cell / bare:.2f}"
    )
    gib, seconds = asyncio.run(crowd(options.sessions))
    print(f"{options.sessions} sessions with numpy and pandas: {gib:.2f} GiB, made in {seconds:.1f} s")
    if options.json:
        print(
            json.dumps(
                {"cell_over_pipe": round(cell / bare, 3), "sessions": options.sessions, "gib": round(gib, 3)}
            )
        )


if __name__ == "__main__":
    main()

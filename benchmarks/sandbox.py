"""How long a sandboxed call takes, as a ratio to a bare ``python -c`` on the same machine in the same run.

    python benchmarks/sandbox.py [rounds]

Ratios carry over between machines better than milliseconds do. Each round takes one sample of everything, so
that what else the machine is doing falls on all of them alike.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from agentrl.sandbox import Sandbox, Session, open_sandbox

CODE = "print(1 + 1)"
AT_ONCE = 100


async def seconds(work: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


async def bare() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CODE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    await process.communicate()


async def fresh(sandbox: Sandbox) -> None:
    async with await sandbox.create() as session:
        await session.run_cell(CODE)


async def many(sandbox: Sandbox) -> None:
    await asyncio.gather(*(fresh(sandbox) for _ in range(AT_ONCE)))


async def main(rounds: int) -> None:
    async with open_sandbox() as sandbox, await sandbox.create() as session:
        await session.run_cell(CODE)
        work: dict[str, Callable[[], Awaitable[object]]] = {
            "bare python -c": bare,
            "session: create, one cell, close": lambda: fresh(sandbox),
            "cell in a running session": lambda: cell(session),
            "command in a running session": lambda: session.exec("true"),
        }
        samples: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(rounds):
            for name, call in work.items():
                samples[name].append(await seconds(call))
        at_once = await seconds(lambda: many(sandbox)) / AT_ONCE
    base = statistics.median(samples["bare python -c"])
    print(f"{'':40}{'p50 ms':>9}{'p90 ms':>9}{'ratio to bare':>15}")
    for name, values in samples.items():
        middle, high = statistics.median(values), sorted(values)[int(len(values) * 0.9)]
        print(f"{name:40}{1000 * middle:9.2f}{1000 * high:9.2f}{middle / base:15.3f}")
    print(
        f"{f'session as above, {AT_ONCE} at once, each':40}{1000 * at_once:9.2f}{'':9}{at_once / base:15.3f}"
    )


async def cell(session: Session) -> object:
    return await session.run_cell(CODE)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))

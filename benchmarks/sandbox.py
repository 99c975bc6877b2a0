"""How long a sandboxed call takes, as a ratio to a bare ``python -c`` in the same run; and how
many stateless calls there are per second, beside bare forks of a warm interpreter.

    python benchmarks/sandbox.py [rounds]

Ratios carry over between machines better than milliseconds do. Each round takes one sample of everything, so
that what else the machine is doing falls on all of them alike.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from agentrl.sandbox import Sandbox, Session, open_sandbox

CODE = "print(1 + 1)"
AT_ONCE = 100
CALLERS = (1, 16, 64, 256)
STATELESS = 500  # calls at least, for each number of callers


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


def bare_forks(calls: int) -> float:
    """Calls per second, all processors busy: fork, compile and run, read the output, reap."""
    processors = os.cpu_count() or 1
    started = time.perf_counter()
    workers = [_forking_worker(calls // processors) for _ in range(processors)]
    for pid in workers:
        os.waitpid(pid, 0)
    return calls // processors * processors / (time.perf_counter() - started)


def _forking_worker(calls: int) -> int:
    worker = os.fork()
    if worker:
        return worker
    for _ in range(calls):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(writer, 1)
            exec(compile(CODE, "script.py", "exec"), {})
            sys.stdout.flush()
            os._exit(0)
        os.close(writer)
        while os.read(reader, 4096):
            continue
        os.close(reader)
        os.waitpid(pid, 0)
    os._exit(0)


async def stateless(sandbox: Sandbox, callers: int, preload: tuple[str, ...]) -> float:
    """Calls per second."""
    each = max(2, STATELESS // callers)

    async def caller() -> None:
        for _ in range(each):
            await sandbox.run(CODE, preload=preload)

    await asyncio.gather(*(sandbox.run(CODE, preload=preload) for _ in range(16)))  # warm
    return callers * each / await seconds(lambda: asyncio.gather(*(caller() for _ in range(callers))))


async def rates() -> None:
    """Bare forks are counted anew beside each row, because what else the machine does changes."""
    print(f"\n{'stateless calls per second':40}{'calls':>9}{'forks':>9}{'ratio':>15}")
    async with open_sandbox() as sandbox:
        for preload in ((), ("numpy",)):
            for module in preload:
                importlib.import_module(module)
            for callers in CALLERS:
                before = bare_forks(STATELESS)
                rate = await stateless(sandbox, callers, preload)
                forks = (before + bare_forks(STATELESS)) / 2
                name = f"{callers} callers{', numpy loaded' if preload else ''}"
                print(f"{name:40}{rate:9.0f}{forks:9.0f}{rate / forks:15.3f}")


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

    await rates()


async def cell(session: Session) -> object:
    return await session.run_cell(CODE)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))

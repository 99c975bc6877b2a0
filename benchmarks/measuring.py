"""What the benchmarks of the tool server share: a served process, closed-loop callers, a free port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import psutil

START_SECONDS = 30.0


@dataclass(frozen=True)
class Load:
    """What a number of callers measured, each of whom waited for its answer before the next call.

    Args:
        rate: answers per second.
        p50, p99: milliseconds from request to answer.
        cpu_ms: CPU time of the measured process tree for each answer, in milliseconds; NaN if not asked for.
        failed: answers that were not what they should be.
    """

    rate: float
    p50: float
    p99: float
    cpu_ms: float
    failed: int


async def closed_loop(
    call: Callable[[], Awaitable[bool]], *, callers: int, seconds: float, pid: int | None = None
) -> Load:
    """Have ``callers`` call again and again for a while.

    Args:
        call: one call; whether the answer was right.
        seconds: for how long calls are begun; those under way are waited for and counted.
        pid: root of the process tree whose CPU time is measured.
    """
    latencies: list[float] = []
    failed = 0
    began = time.perf_counter()
    cpu_before = tree_cpu(pid)

    async def caller() -> None:
        nonlocal failed
        while time.perf_counter() - began < seconds:
            started = time.perf_counter()
            right = await call()
            latencies.append(1000 * (time.perf_counter() - started))
            failed += not right

    await asyncio.gather(*(caller() for _ in range(callers)))
    elapsed = time.perf_counter() - began
    cpu = (tree_cpu(pid) - cpu_before) * 1000 / len(latencies)
    ordered = sorted(latencies)
    return Load(
        rate=len(ordered) / elapsed,
        p50=statistics.median(ordered),
        p99=ordered[int(len(ordered) * 0.99)],
        cpu_ms=cpu,
        failed=failed,
    )


def tree_cpu(pid: int | None) -> float:
    """CPU seconds used by a process and what it has reaped, and by those below it; NaN without one."""
    if pid is None:
        return float("nan")
    total = 0.0
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


@dataclass(frozen=True)
class Served:
    """A running ``agentrl serve``."""

    url: str
    pid: int


@contextlib.asynccontextmanager
async def served(*arguments: str) -> AsyncIterator[Served]:
    """``agentrl serve`` with these arguments on a free port, ready; ended afterwards."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "agentrl.cli", "serve", *arguments, "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        await _until_ready(f"{url}/ready", process)
        yield Served(url, process.pid)
    finally:
        process.terminate()
        process.wait(START_SECONDS)


async def _until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    async with aiohttp.ClientSession() as http:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.05)
    raise RuntimeError(f"agentrl serve was not ready at {url} (exit status {process.poll()})")


def free_port() -> int:
    """A TCP port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

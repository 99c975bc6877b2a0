"""How many programs a second the tool server runs, each in full isolation, through HTTP.

    python -m benchmarks.tool_server [--seconds 6] [--json]

``agentrl serve code`` is called by 1, 16, 64 and 256 callers at once, with ``print(1+1)`` and with a numpy
snippet. Beside it, in the same run: a bare fork of a warm interpreter (no isolation, no HTTP; the limit), and
one ``firejail`` per call behind an aiohttp handler (what verl-tool's server does, without its own overhead),
where firejail is installed. With ``--json`` the last line is a JSON object of the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import aiohttp
from aiohttp import web

from benchmarks.bare_fork import BareFork
from benchmarks.measuring import Load, closed_loop, served

CALLERS = (1, 16, 64, 256)
PLAIN = "print(1+1)"
NUMPY = "import numpy as np; print(int(np.arange(2001).sum()))"
EXPECTED = {PLAIN: "2\n", NUMPY: "2001000\n"}
Call = Callable[[str], Awaitable[bool]]


def server_call(http: aiohttp.ClientSession, url: str) -> Call:
    """A stateless call of the ``code`` tool."""

    async def call(code: str) -> bool:
        async with http.post(f"{url}/v1/calls", json={"tool": "code", "arguments": {"code": code}}) as answer:
            return answer.status == 200 and (await answer.json())["observation"]["text"] == EXPECTED[code]

    return call


def fork_call(fork: BareFork) -> Call:
    """The same program in a bare fork."""

    async def call(code: str) -> bool:
        return (await fork.run(code)).decode() == EXPECTED[code]

    return call


async def firejail_server(stack: AsyncExitStack) -> str | None:
    """The address of a server that starts a firejail per call; ``None`` where there is none."""
    firejail = shutil.which("firejail")
    if firejail is None:
        return None
    jail = [
        firejail,
        "--quiet",
        "--private",
        "--net=none",
        "--seccomp",
        "--caps.drop=all",
        "--rlimit-nproc=64",
    ]

    async def run(request: web.Request) -> web.Response:
        code = (await request.json())["arguments"]["code"]
        process = await asyncio.create_subprocess_exec(
            *jail,
            "/usr/bin/python3",
            "-c",
            code,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
        return web.json_response({"observation": {"text": output.decode()}})

    app = web.Application()
    app.router.add_post("/v1/calls", run)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return str(site.name) if site._server is None else f"http://127.0.0.1:{runner.addresses[0][1]}"


async def measure(forks: Mapping[str, BareFork], seconds: float) -> dict[str, dict[int, Load]]:
    """Every subject under every number of callers, one after the other."""
    loads: dict[str, dict[int, Load]] = {}
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(served("code", "--log", "none"))
        numpy = await stack.enter_async_context(served("code{preload: [numpy]}", "--log", "none"))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(300))
        )
        firejail = await firejail_server(stack)
        subjects: dict[str, tuple[Call, str, tuple[int, ...], int | None]] = {
            "bare fork, print": (fork_call(forks[PLAIN]), PLAIN, CALLERS, None),
            "agentrl serve, print": (server_call(http, plain.url), PLAIN, CALLERS, plain.pid),
            "bare fork, numpy": (fork_call(forks[NUMPY]), NUMPY, CALLERS, None),
            "agentrl serve, numpy": (server_call(http, numpy.url), NUMPY, CALLERS, numpy.pid),
        }
        if firejail is not None:
            subjects["firejail per call, print"] = (server_call(http, firejail), PLAIN, (1, 16, 64), None)
        for name, (call, code, callers, pid) in subjects.items():
            await closed_loop(lambda: call(code), callers=4, seconds=1.0)  # noqa: B023  awaited before the next
            loads[name] = {}
            for count in callers:
                load = await closed_loop(lambda: call(code), callers=count, seconds=seconds, pid=pid)  # noqa: B023
                loads[name][count] = load
                print(row(name, count, load), flush=True)
    return loads


def row(name: str, callers: int, load: Load) -> str:
    """A line of the table."""
    cpu = "" if load.cpu_ms != load.cpu_ms else f"{load.cpu_ms:8.2f}"
    failed = f"  {load.failed} FAILED" if load.failed else ""
    return f"{name:26}{callers:8}{load.rate:10.1f}{load.p50:10.1f}{load.p99:10.1f}{cpu}{failed}"


def ratios(loads: Mapping[str, Mapping[int, Load]]) -> dict[str, float]:
    """What is claimed of the server, as ratios within this run."""

    def rate(name: str, callers: int) -> float:
        return loads[name][callers].rate

    found = {
        "over_fork_at_64": rate("agentrl serve, print", 64) / rate("bare fork, print", 64),
        "rate_256_over_16": rate("agentrl serve, print", 256) / rate("agentrl serve, print", 16),
        "numpy_over_fork_at_64": rate("agentrl serve, numpy", 64) / rate("bare fork, numpy", 64),
        "numpy_rate_256_over_16": rate("agentrl serve, numpy", 256) / rate("agentrl serve, numpy", 16),
        "rate_at_64": rate("agentrl serve, print", 64),
        "failed": sum(load.failed for name, by in loads.items() if "serve" in name for load in by.values()),
    }
    if "firejail per call, print" in loads:
        found["over_firejail_at_64"] = rate("agentrl serve, print", 64) / rate("firejail per call, print", 64)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="end with the ratios as a JSON object")
    options = parser.parse_args()
    forks = {PLAIN: BareFork.start(), NUMPY: BareFork.start(("numpy",))}
    try:
        print(f"{'':26}{'callers':>8}{'calls/s':>10}{'p50 ms':>10}{'p99 ms':>10}{'CPU ms':>8}", flush=True)
        found = ratios(asyncio.run(measure(forks, options.seconds)))
    finally:
        for fork in forks.values():
            fork.close()
    if "over_firejail_at_64" not in found:
        print(
            "firejail is not installed, so there is no peer here: apt-get install firejail", file=sys.stderr
        )
    print(f"agentrl serve over a bare fork at 64 callers: {found['over_fork_at_64']:.2f}")
    print(f"agentrl serve, 256 callers over 16: {found['rate_256_over_16']:.2f}")
    if options.json:
        print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()

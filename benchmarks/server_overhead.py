"""What the tool server itself costs: a tool that does nothing, beside a bare aiohttp handler.

    python -m benchmarks.server_overhead [--seconds 5] [--json]

Requests a second and CPU time for each, at 1, 64 and 1,024 connections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable

import aiohttp

from benchmarks.measuring import Load, closed_loop, free_port, served

CONNECTIONS = (1, 64, 1024)
BARE = """
import asyncio, sys
from aiohttp import web

async def answer(request):
    body = await request.json()
    return web.json_response({"status": "ok", "observation": {"text": body["tool"]}})

app = web.Application()
app.router.add_post("/v1/calls", answer)
app.router.add_get("/ready", lambda request: answer_ready())

async def answer_ready():
    return web.Response()

web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
"""


async def loads(url: str, pid: int, seconds: float) -> dict[int, Load]:
    """A no-op call at every number of connections."""
    found: dict[int, Load] = {}
    for connections in CONNECTIONS:
        connector = aiohttp.TCPConnector(limit=connections)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as http:
            call = _call(http, url)
            await closed_loop(call, callers=connections, seconds=1.0)
            found[connections] = await closed_loop(call, callers=connections, seconds=seconds, pid=pid)
    return found


def _call(http: aiohttp.ClientSession, url: str) -> Callable[[], Awaitable[bool]]:
    async def call() -> bool:
        async with http.post(f"{url}/v1/calls", json={"tool": "noop", "arguments": {}}) as answer:
            await answer.read()
            return answer.status == 200

    return call


async def measure(seconds: float) -> tuple[dict[int, Load], dict[int, Load]]:
    """The server's loads and the bare handler's."""
    async with served("./benchmarks/noop.py") as server:
        ours = await loads(server.url, server.pid, seconds)
    port = free_port()
    bare = subprocess.Popen([sys.executable, "-c", BARE, str(port)])
    try:
        await _listening(port)
        theirs = await loads(f"http://127.0.0.1:{port}", bare.pid, seconds)
    finally:
        bare.terminate()
        bare.wait()
    return ours, theirs


async def _listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="end with the figures as a JSON object")
    options = parser.parse_args()
    ours, bare = asyncio.run(measure(options.seconds))
    print(f"{'connections':>11}{'serve /s':>10}{'bare /s':>9}{'ratio':>7}{'serve CPU ms':>14}{'bare':>8}")
    for count in CONNECTIONS:
        own, other = ours[count], bare[count]
        print(
            f"{count:11}{own.rate:10.0f}{other.rate:9.0f}{own.rate / other.rate:7.2f}"
            f"{own.cpu_ms:14.3f}{other.cpu_ms:8.3f}"
        )
    if options.json:
        figures = {
            f"over_bare_at_{count}": round(ours[count].rate / bare[count].rate, 4) for count in CONNECTIONS
        }
        print(json.dumps({**figures, "failed": sum(load.failed for load in ours.values())}))


if __name__ == "__main__":
    main()

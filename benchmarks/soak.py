"""A long run of good, slow, crashing and hostile programs: nothing may pile up.

    python -m benchmarks.soak [--calls 100000] [--json]

``agentrl serve`` has 64 callers; some calls are stateless, some belong to sessions that are opened and
ended. At the end the server's memory, file descriptors, processes, control groups and temporary files are
compared with what they were after the first tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import psutil

from benchmarks.measuring import served

CALLERS = 64
WARM_SHARE = 0.1
SESSION_CALLS = 5
PROGRAMS: tuple[tuple[int, str], ...] = (  # weight, program
    (60, "print(sum(range(100)))"),
    (10, "import time; time.sleep(0.2); print('slow')"),
    (8, "raise ValueError('wrong')"),
    (5, "open('/tmp/f', 'wb').write(bytes(1 << 20)); print('wrote')"),
    (4, "import os; os.abort()"),
    (3, "print('x' * 3_000_000)"),
    (3, "import os\nfor _ in range(100):\n  os.fork()"),
    (2, "while True: pass"),
    (2, "x = bytearray(1 << 32)"),
    (2, "import os, time\nif os.fork() == 0:\n  os.setsid(); time.sleep(3600)\nprint('left one behind')"),
    (1, "import os; os.kill(os.getppid(), 9)"),
)


@dataclass(frozen=True)
class Held:
    """What the server and its sandbox hold. ``memory_mb``: proportional share, in MiB."""

    memory_mb: float
    descriptors: int
    processes: int
    groups: int
    temporary_files: int


def held(pid: int) -> Held:
    """A look at the process tree of the server, at control groups and at temporary files."""
    root = psutil.Process(pid)
    tree = [root, *root.children(recursive=True)]
    memory = descriptors = 0
    for process in tree:
        try:
            memory += process.memory_full_info().pss
            descriptors += process.num_fds()
        except psutil.Error:
            continue
    groups = sum(1 for path in Path("/sys/fs/cgroup").rglob(f"agentrl-{pid}-*/*") if path.is_dir())
    return Held(
        memory / (1 << 20), descriptors, len(tree), groups, len(list(Path(tempfile.gettempdir()).iterdir()))
    )


class Soak:
    """Callers that share a number of calls."""

    def __init__(self, http: aiohttp.ClientSession, url: str, calls: int) -> None:
        self._http, self._url, self._left = http, url, calls
        self._draw = random.Random(0)
        self._sessions = itertools.count()
        self.answers: dict[str, int] = {}

    def _program(self) -> str:
        weights, programs = zip(*PROGRAMS, strict=True)
        return str(self._draw.choices(programs, weights)[0])

    async def run(self, calls: int) -> None:
        """That many calls more."""
        self._left = calls
        await asyncio.gather(*(self._caller(number) for number in range(CALLERS)))

    async def _caller(self, number: int) -> None:
        while self._left > 0:
            if number % 4:
                self._left -= 1
                await self._call("/v1/calls", {"tool": "code", "arguments": {"code": self._program()}})
                continue
            session = f"soak-{next(self._sessions)}"
            await self._post(f"/v1/sessions/{session}", {})
            for index in range(SESSION_CALLS):
                self._left -= 1
                body = {"id": str(index), "tool": "python", "arguments": {"code": self._program()}}
                await self._call(f"/v1/sessions/{session}/calls", body)
            async with self._http.delete(f"{self._url}/v1/sessions/{session}") as answer:
                await answer.read()

    async def _call(self, path: str, body: dict[str, object]) -> None:
        status, answer = await self._post(path, body)
        kind = str(answer.get("status") or answer.get("error", {}).get("kind")) if answer else str(status)
        self.answers[f"{status} {kind}"] = self.answers.get(f"{status} {kind}", 0) + 1

    async def _post(self, path: str, body: dict[str, object]) -> tuple[int, dict[str, object]]:
        while True:
            async with self._http.post(f"{self._url}{path}", json=body) as answer:
                if answer.status not in (429, 503):
                    data = await answer.json() if answer.content_type == "application/json" else {}
                    return answer.status, data
                await asyncio.sleep(float(answer.headers["Retry-After"]))


async def soak(calls: int) -> tuple[Held, Held, dict[str, int]]:
    """What was held after the first tenth and at the end, and how calls were answered."""
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        served("code{seconds: 1}", "python{seconds: 1}") as server,
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(600)) as http,
    ):
        work = Soak(http, server.url, calls)
        began = time.monotonic()
        warm = max(1, int(calls * WARM_SHARE))
        await work.run(warm)
        await asyncio.sleep(3)  # what is on its way out may leave
        before = held(server.pid)
        print(f"after {warm} calls ({time.monotonic() - began:.0f} s): {before}", flush=True)
        for part in range(1, 10):
            await work.run(calls // 10)
            done = warm + part * (calls // 10)
            print(f"after {done} calls ({time.monotonic() - began:.0f} s): {held(server.pid)}", flush=True)
        await asyncio.sleep(3)
        return before, held(server.pid), work.answers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--json", action="store_true", help="end with the figures as a JSON object")
    options = parser.parse_args()
    before, after, answers = asyncio.run(soak(options.calls))
    print("answers:", dict(sorted(answers.items(), key=lambda item: -item[1])))
    print(f"{'':18}{'after a tenth':>15}{'at the end':>12}")
    for name, value in asdict(before).items():
        print(f"{name:18}{value:15.0f}{asdict(after)[name]:12.0f}")
    if options.json:
        print(json.dumps({"before": asdict(before), "after": asdict(after), "answers": answers}))


if __name__ == "__main__":
    main()

"""``agentrl serve`` with workers, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

SLOW = """
import asyncio, os
from pathlib import Path
from agentrl import Tool

class Slow(Tool):
    def __init__(self) -> None:
        self.count = 0

    async def call(self, touch: str = '', until: str = '') -> str:
        '''Count one more; make a file, wait for another.'''
        self.count += 1
        print('tools may print', flush=True)
        if touch:
            Path(touch).touch()
        while until and not Path(until).exists():
            await asyncio.sleep(0.02)
        return f'{os.getpid()} {self.count}'
"""


@dataclass(frozen=True)
class Front:
    """A front that takes calls."""

    url: str
    process: asyncio.subprocess.Process
    token: str

    async def get(self, path: str, server: str = "") -> tuple[int, str]:
        """Status and body of what a server answers."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            async with http.get((server or self.url) + path) as answer:
                return answer.status, await answer.text()

    async def post(self, path: str, body: Any) -> Any:
        """The JSON that a server answers with."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            async with http.post(self.url + path, json=body) as answer:
                return await answer.json()

    async def workers(self) -> list[str]:
        """The live workers."""
        status, text = await self.get("/v1/servers")
        assert status == 200, text
        servers: list[str] = json.loads(text)["servers"]
        return servers

    async def workers_without(self, gone: str, count: int) -> list[str]:
        """Wait until so many workers live, one of which is not any more."""
        while True:
            servers = await self.workers()
            if len(servers) == count and gone not in servers:
                return servers
            await asyncio.sleep(0.1)


@asynccontextmanager
async def fronted(folder: Path, *options: str, token: str = "") -> AsyncIterator[Front]:
    """A front and its workers with the tool ``slow``; killed in the end if still there."""
    tool = folder / "slow.py"
    tool.write_text(SLOW)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentrl.cli", "serve", str(tool), *options, "--port", "0", "--log", "none",
        stdout=asyncio.subprocess.PIPE, env=os.environ | {"AGENTRL_TOKEN": token},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        assert line, "the front did not start"
        yield Front(line.split()[-1], process, token)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def refusal(*words: str) -> tuple[int | None, str]:
    """Exit code and standard error of ``agentrl serve`` with what cannot be served, without a token."""
    environment = {name: value for name, value in os.environ.items() if name != "AGENTRL_TOKEN"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentrl.cli", "serve", *words, "--port", "0", "--log", "none",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    try:
        _, problem = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, problem.decode()


async def appears(path: Path) -> None:
    """Wait for a file."""
    while not path.exists():
        await asyncio.sleep(0.02)


async def vanishes(pid: int) -> None:
    """Wait for the end of a process."""
    while Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return
        await asyncio.sleep(0.05)

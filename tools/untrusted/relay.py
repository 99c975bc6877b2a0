"""A local socket in front of a server that lets only so many bytes through."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

_CHUNK = 1 << 16


class Relay:
    """Passes one connection's bytes on; ends it once more than ``most_bytes`` have come back.

    A client that reads a whole row before it shows any of it would otherwise let a server fill its memory.
    """

    def __init__(self, dial: Dial, most_bytes: int) -> None:
        self._dial, self._most_bytes = dial, most_bytes
        self.overflowed = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client until either side ends."""
        writers = [writer]
        ways: list[asyncio.Task[None]] = []
        try:
            far_reader, far_writer = await self._dial()
            writers.append(far_writer)
            ways.append(asyncio.create_task(self._pass(reader, far_writer, None)))
            ways.append(asyncio.create_task(self._pass(far_reader, writer, self._most_bytes)))
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            return  # which the client notices, for its connection ends
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for each in writers:
                each.transport.abort() if self.overflowed else each.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None
    ) -> None:
        passed = 0
        while data := await reader.read(_CHUNK):
            passed += len(data)
            if most is not None and passed > most:
                self.overflowed = True
                return
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def relayed(dial: Dial, most_bytes: int, name: str) -> AsyncIterator[tuple[Relay, str]]:
    """A relay that listens as the Unix socket ``name`` in a folder of its own; yields it and the folder."""
    relay = Relay(dial, most_bytes)
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            serving.add(task)
        with contextlib.suppress(asyncio.CancelledError):  # below; asyncio would report it as an error
            await relay.serve(reader, writer)

    with tempfile.TemporaryDirectory(prefix="agentrl-") as folder:
        server = await asyncio.start_unix_server(serve, str(Path(folder, name)))
        try:
            yield relay, folder
        finally:
            server.close()
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

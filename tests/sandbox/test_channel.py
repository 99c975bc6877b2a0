"""The connection to a supervisor, on asyncio's own event loop and on uvloop, which Ray's workers run."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from agentrl.sandbox import NamespaceSandbox, Status
from agentrl.sandbox.channel import Channel
from agentrl.sandbox.guest import wire

Run = Callable[[Coroutine[Any, Any, None]], None]
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])

_FRAMES = st.lists(st.tuples(st.dictionaries(st.text(max_size=5), st.integers()), st.binary(max_size=40_000)))


@LOOPS
@given(frames=_FRAMES, cut=st.integers(1, 30_000), begun=st.integers(0, 8))
def test_frames_come_whole_however_they_are_cut(run: Run, frames: list[Any], cut: int, begun: int) -> None:
    data = b"".join(wire.encode(header, body) for header, body in frames)

    async def talk() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        begin = data[:begun]
        channel = await Channel.over(ours, begin)
        sending = asyncio.ensure_future(_pieces(theirs, data[len(begin) :], cut))
        for frame in frames:
            assert await channel.receive() == frame
        await sending
        theirs.close()
        with pytest.raises(EOFError):
            await channel.receive()
        channel.close()

    run(talk())


async def _pieces(sock: socket.socket, data: bytes, size: int) -> None:
    for start in range(0, len(data), size):
        await asyncio.get_running_loop().sock_sendall(sock, data[start : start + size])
        await asyncio.sleep(0)


@LOOPS
def test_a_frame_that_is_none_is_told(run: Run) -> None:
    async def talk() -> None:
        ours, theirs = socket.socketpair()
        with closing(theirs):
            channel = await Channel.over(ours)
            theirs.sendall(b"\xff" * 8)
            with pytest.raises(wire.FrameError):
                await channel.receive()
            channel.close()

    run(talk())


@LOOPS
def test_the_end_of_the_other_side_is_waited_for_whatever_it_still_says(run: Run) -> None:
    async def talk() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        channel = await Channel.over(ours)
        saying = asyncio.ensure_future(_pieces(theirs, b"x" * 100_000, 10_000))
        finishing = asyncio.ensure_future(channel.finish())
        await saying
        assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""
        assert not finishing.done()
        theirs.close()
        await finishing
        channel.close()

    run(talk())


@LOOPS
def test_sessions_work_on_either_loop(run: Run, isolation: None) -> None:
    async def work() -> None:
        async with NamespaceSandbox() as sandbox, await sandbox.create() as session:
            assert (await session.run_cell("x = 6 * 7; x")).stdout == "42\n"
            assert (await session.run_cell("print('y' * 50_000)")).stdout == "y" * 50_000 + "\n"
            async with await session.fork() as fork:
                assert (await fork.run_cell("x")).stdout == "42\n"
            assert (await session.run_cell("while True: pass", wall_seconds=0.2)).status is Status.timeout
            assert (await sandbox.run("print(1)")).stdout == "1\n"

    run(work())

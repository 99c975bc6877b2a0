"""Many sessions at once, and many calls of one."""

from __future__ import annotations

import asyncio
import time

from agentrl.sandbox.protocol import Limits, Session

from .suite import Ground, expect, promise

_SESSIONS = 12


@promise("concurrency")
async def sessions_do_not_mix(ground: Ground) -> None:
    """A dozen sessions at once keep their variables and files apart."""

    async def episode(number: int) -> str:
        async with ground.session() as session:
            await session.run_cell(f"x = {number}")
            await session.put("n", str(number).encode())
            return (await session.run_cell("print(x, open('n').read())")).stdout

    outputs = await asyncio.gather(*(episode(number) for number in range(_SESSIONS)))
    expected = [f"{number} {number}\n" for number in range(_SESSIONS)]
    expect(outputs == expected, "each sees its own", outputs)


@promise("concurrency")
async def calls_of_a_session_take_turns(ground: Ground) -> None:
    """Calls of one session that are made at once run one after another, in order."""
    async with ground.session() as session:
        await session.run_cell("import time; seen = []")
        codes = [f"a = {n}; time.sleep(0.01); seen.append(a == {n}); print({n})" for n in range(10)]
        results = await asyncio.gather(*(session.run_cell(code) for code in codes))
        expect([r.stdout for r in results] == [f"{n}\n" for n in range(10)], "each gets its own", results)
        turns = await session.run_cell("print(all(seen), len(seen))")
        expect(turns.stdout == "True 10\n", "one at a time", turns)


@promise("concurrency")
async def a_busy_session_holds_up_no_other(ground: Ground) -> None:
    """While one session computes without end, another answers."""
    async with ground.session() as busy, ground.session() as other:
        await other.run_cell("1")
        call = asyncio.create_task(busy.run_cell("while True: pass", wall_seconds=5 + 20 * ground.unit))
        await asyncio.sleep(0.1)
        result = await other.run_cell("6 * 7")
        expect(result.stdout == "42\n" and not call.done(), "the other answers meanwhile", result)
        await busy.close()
        await asyncio.gather(call, return_exceptions=True)


@promise("concurrency")
async def sessions_share_nothing(ground: Ground) -> None:
    """A session sees nothing of another: no files, processes, ports, sockets, environment or modules."""
    async with ground.session() as one, ground.session() as other:
        await one.run_cell(
            "import socket, builtins, os\nbuiltins.poison = os.environ['POISON'] = 'x'\n"
            "s = socket.create_server(('127.0.0.1', 45999)); "
            "u = socket.socket(socket.AF_UNIX); u.bind('\\0agentrl-check'); u.listen()"
        )
        await one.exec(
            "echo x > /tmp/agentrl-seen; echo x > /dev/shm/agentrl-seen; echo x > agentrl-seen; "
            "echo 'print(1)' > sitecustomize.py; sleep 3599 &"
        )
        try:
            await _sees_nothing(other)
        finally:
            await one.exec("rm -f /tmp/agentrl-seen /dev/shm/agentrl-seen")


async def _sees_nothing(other: Session) -> None:
    seen = await other.run_cell(
        "import os, socket, builtins\n"
        "def reaches(family, address):\n"
        "    try: socket.socket(family).connect(address); return True\n"
        "    except OSError: return False\n"
        "[p for p in ('.', '/tmp', '/dev/shm') if os.path.exists(p + '/agentrl-seen')],"
        " hasattr(builtins, 'poison'), 'POISON' in os.environ,"
        " reaches(socket.AF_INET, ('127.0.0.1', 45999)), reaches(socket.AF_UNIX, '\\0agentrl-check')"
    )
    expect(seen.stdout == "([], False, False, False, False)\n", "nothing of the other is seen", seen)
    found = await other.exec("grep -sl '359[9]' /proc/[0-9]*/cmdline || echo none")
    expect(found.stdout == "none\n", "its processes are not seen", found)


@promise("concurrency")
async def a_full_session_takes_nothing_from_another(ground: Ground) -> None:
    """A session that has used up its disk leaves another's whole."""
    async with ground.session(Limits(disk_mb=4)) as full, ground.session(Limits(disk_mb=4)) as other:
        await full.exec("head -c 8M /dev/zero > x")
        await other.put("y", bytes(2 << 20))
        expect(len(await other.get("y", max_bytes=4 << 20)) == 2 << 20, "the other's file is whole")


async def answers_within(session: Session, seconds: float) -> None:
    """A session answers a trivial call in so many seconds.

    Raises:
        Broken: it did not.
    """
    started = time.monotonic()
    result = await session.run_cell("6 * 7")
    taken = time.monotonic() - started
    expect(result.stdout == "42\n", "a sibling session answers meanwhile", result)
    expect(taken < seconds, f"a sibling session answers within {seconds:.1f} s; it took {taken:.1f} s")

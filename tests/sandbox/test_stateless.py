"""Stateless calls: programs of their own, and nothing of one call in the next."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid

import pytest

from agentrl.sandbox import Limits, NamespaceSandbox, Session, Status


async def test_a_script_is_a_program(session: Session) -> None:
    done = await session.run_script(
        "import sys\nprint(__name__, sys.argv, input(), sys.stdin.read())\n1 + 1", stdin=b"line\nrest"
    )
    assert (done.status, done.exit_code) == (Status.ok, 0)
    assert done.stdout == "__main__ ['/workspace/script.py'] line rest\n"
    failed = await session.run_script("def f():\n    return 1 / 0\nf()")
    assert (failed.status, failed.exit_code) == (Status.error, 1)
    assert failed.stderr.splitlines()[:2] == [
        "Traceback (most recent call last):", '  File "/workspace/script.py", line 3, in <module>',
    ]  # fmt: skip
    assert "return 1 / 0" in failed.stderr and failed.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert (await session.run_script("raise SystemExit(3)")).exit_code == 3
    assert (await session.run_script("import os; os.abort()")).status is Status.crashed
    assert "SyntaxError" in (await session.run_script("x = ")).stderr


async def test_a_script_ends_as_a_program_does(session: Session) -> None:
    done = await session.run_script(
        "import atexit, threading, time\natexit.register(print, 'last')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\nprint('main')"
    )
    assert done.stdout == "main\nthread\nlast\n"


async def test_a_script_shares_files_with_cells_and_nothing_else(session: Session) -> None:
    await session.run_cell("x = 1; open('n', 'w').write('7')")
    assert (await session.run_script("print('x' in globals(), open('n').read())")).stdout == "False 7\n"
    assert (await session.run_script("while True: pass", wall_seconds=0.3)).status is Status.timeout
    assert (await session.run_cell("x")).stdout == "1\n"


async def test_a_call_finds_nothing_of_the_one_before(isolation: None) -> None:
    dirt = (
        "import os, socket, subprocess\n"
        "subprocess.Popen(['sleep', '1000'])\n"
        "os.makedirs('a/b/c'); os.makedirs('/tmp/x'); os.chmod('/tmp/x', 0)\n"
        "open('/dev/shm/s', 'w').close()\n"
        "for path in ('/workspace', '/tmp', '/dev/shm'):\n"
        "    os.utime(path, (1, 1))\n"
        "    try: os.setxattr(path, 'user.note', b'x')\n"
        "    except OSError: pass\n"
        "    os.chmod(path, 0o311)\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('\\0name'); s.listen()\n"
        "print('made')"
    )
    look = (
        "import os, socket\n"
        "for path in ('/workspace', '/tmp', '/dev/shm'):\n"
        "    info = os.stat(path)\n"
        "    print(path, oct(info.st_mode), info.st_mtime > 1, os.listdir(path), os.listxattr(path))\n"
        "print(len([name for name in os.listdir('/proc') if name.isdigit()]))\n"
        "print(socket.socket(socket.AF_UNIX).connect_ex('\\0name'))\n"
        "print(os.getpid() > 2)"
    )
    async with NamespaceSandbox() as fresh:
        first = await fresh.run(look)
        assert (await fresh.run(dirt)).stdout == "made\n"
        second = await fresh.run(look)
        assert len(fresh._recycler._idle) == 1
    assert second.stdout.splitlines()[:-1] == first.stdout.splitlines()[:-1], second
    assert second.stdout.endswith("True\n")  # it was the same session


_SEARCH = """
import sys
needle, found = sys.stdin.buffer.read()[::-1], 0
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
    for line in maps:
        begin, end = (int(part, 16) for part in line.split()[0].split('-'))
        try:
            memory.seek(begin)
            for at in range(begin, end, 1 << 20):
                piece = memory.read(min(1 << 20, end - at))
                found += piece.count(needle)
                del piece
        except (OSError, OverflowError):
            continue
print(found)
"""


async def test_no_memory_holds_what_an_earlier_call_said_or_printed(sandbox: NamespaceSandbox) -> None:
    """The program looks for a text that it is given backwards: it has it in memory itself, once or twice."""
    said, never_said = uuid.uuid4().hex, uuid.uuid4().hex
    for _ in range(3):
        await sandbox.run(f"import sys\nx = {said!r}\nprint(x, sys.stdin.read())", stdin=said.encode())
    found = await sandbox.run(_SEARCH, stdin=said[::-1].encode())
    assert len(sandbox._recycler._idle) == 1 and sandbox._recycler._idle[0][2].clean
    expected = await sandbox.run(_SEARCH, stdin=never_said[::-1].encode())
    assert found.status is Status.ok and int(found.stdout) <= int(expected.stdout), (found, expected)


@pytest.mark.parametrize(
    "code",
    [
        "import os; os.kill(os.getpid(), 9)",
        "while True: pass",
        "while True: print('x' * 100000)",
        "x = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): x[i] = 1",
        "import socket\ns = socket.create_server(('127.0.0.1', 4000))\n"
        "socket.create_connection(s.getsockname())",
        "import os\nfor i in range(2000): open(str(i), 'w').close()",
        "import os\nfor _ in range(100): os.mkdir('d'); os.chdir('d')",
    ],
)
async def test_a_session_that_is_not_as_new_is_thrown_away(sandbox: NamespaceSandbox, code: str) -> None:
    limits = Limits(wall_seconds=1.0, memory_mb=128)
    result = await sandbox.run(code, limits=limits)
    assert result.status is not Status.session_lost
    assert not sandbox._recycler._idle and not sandbox._sessions
    assert (await sandbox.run("print(1)", limits=limits)).stdout == "1\n"


async def test_many_calls_at_once_each_get_their_own_answer(sandbox: NamespaceSandbox) -> None:
    results = await asyncio.gather(*(sandbox.run(f"print({number})") for number in range(100)))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(100)]
    bash = await sandbox.run("cat; echo $((6 * 7)); exit 3", language="bash", stdin=b"in ")
    assert (bash.stdout, bash.exit_code, bash.status) == ("in 42\n", 3, Status.error)


async def test_slow_calls_do_not_hold_up_the_rest(sandbox: NamespaceSandbox) -> None:
    slow = [
        asyncio.create_task(sandbox.run("import time; time.sleep(60)", limits=Limits(wall_seconds=61)))
        for _ in range(20)
    ]
    async with asyncio.timeout(30):
        assert (await sandbox.run("print(1)")).stdout == "1\n"
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert len(sandbox._sessions) == len(sandbox._recycler._idle)


async def test_idle_sessions_make_room(isolation: None) -> None:
    async with NamespaceSandbox(max_sessions=1) as sandbox:
        assert (await sandbox.run("print(1)")).stdout == "1\n"
        async with await sandbox.create() as session:
            assert (await session.run_cell("1")).stdout == "1\n"
        assert (await sandbox.run("print(2)", preload=["json"])).stdout == "2\n"


async def test_an_idle_session_that_died_is_replaced(sandbox: NamespaceSandbox) -> None:
    assert (await sandbox.run("print(1)")).stdout == "1\n"
    _, _, idle = sandbox._recycler._idle[0]
    signal.pidfd_send_signal(idle._pidfd, signal.SIGKILL)
    while idle.alive:
        await asyncio.sleep(0.01)
    assert (await sandbox.run("print(2)")).stdout == "2\n"


async def test_calls_leave_no_descriptor_open(sandbox: NamespaceSandbox) -> None:
    await sandbox.run("print(1)")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        await sandbox.run("print(1)")
    assert len(os.listdir("/proc/self/fd")) <= before

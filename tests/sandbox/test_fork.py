"""Forks of a session: the two go apart from a common state, and neither needs the other."""

from __future__ import annotations

import asyncio
import os

import pytest
from process_tree import descendants, wait_until_gone

from agentrl.errors import SessionLost, ToolError
from agentrl.sandbox import Limits, NamespaceSandbox, Session, Status

_TREE = r"""
mkdir -p d/e && echo in > d/e/f && ln -s d/e/f link && ln d/e/f hard && truncate -s 40M hole
echo secret > closed && chmod 000 closed && mkfifo pipe && echo t > /tmp/t && echo s > /dev/shm/s
chmod 555 d/e && touch -d 2001-02-03 d
"""
_LOOK = r"""
cat link; readlink link; stat -c '%a %h' d/e/f closed hard; stat -c %b hole; stat -c '%s %F' hole pipe
stat -c %a d/e; stat -c %Y d; cat /tmp/t /dev/shm/s
"""


async def _value(session: Session, expression: str) -> str:
    return (await session.run_cell(expression)).stdout.strip()


async def test_variables_and_files_are_copied_and_go_apart(session: Session) -> None:
    await session.run_cell("import os\nx = [1]\nlog = open('log', 'w')\nprint('a', file=log, flush=True)")
    async with await session.fork() as fork:
        assert fork.id != session.id
        await fork.run_cell(
            "x.append(2); print('fork', file=log, flush=True); open('/tmp/mine', 'w').close()"
        )
        await session.run_cell("x.append(3); print('parent', file=log, flush=True)")
        assert (await _value(session, "x"), await _value(fork, "x")) == ("[1, 3]", "[1, 2]")
        assert await session.get("log") == b"a\nparent\n"
        assert await fork.get("log") == b"a\nfork\n"
        assert await _value(session, "os.path.exists('/tmp/mine')") == "False"
        assert (await fork.run_cell("1 / 0")).status is Status.error
        assert (await fork.run_script("import sys; print(sys.stdin.read())", stdin=b"in")).stdout == "in\n"


async def test_every_kind_of_file_is_copied(session: Session) -> None:
    assert (await session.exec(_TREE)).status is Status.ok
    before = await session.exec(_LOOK)
    async with await session.fork() as fork:
        after = await fork.exec(_LOOK)
        assert after.stdout == before.stdout and before.stdout.startswith("in\nd/e/f\n")
        assert (await session.exec(_LOOK)).stdout == before.stdout


async def test_a_copied_interpreter_is_confined_and_alone(session: Session) -> None:
    await session.exec("sleep 1000 >/dev/null 2>&1 &")
    await session.run_cell("x = 1")
    async with await session.fork() as fork:
        seen = await fork.run_cell(
            "import os, socket\n"
            "status = dict(line.split(':\\t', 1) for line in open('/proc/self/status') if ':\\t' in line)\n"
            "print({int(status[name], 16) for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')})\n"
            "print(status['NoNewPrivs'].strip(), status['Seccomp'].strip(), os.getppid())\n"
            "print(len([name for name in os.listdir('/proc') if name.isdigit()]))\n"
            "print(sorted(os.listdir('/proc/self/fd'), key=int)[:3], open('/proc/net/dev').read().count(':'))"
        )
        assert seen.stdout == "{0}\n1 2 1\n2\n['0', '1', '2'] 1\n", seen


async def test_limits_hold_in_a_fork(sandbox: NamespaceSandbox) -> None:
    async with await sandbox.create(Limits(memory_mb=128)) as session:
        await session.run_cell("x = 'kept'")
        async with await session.fork() as fork:
            hog = await fork.run_cell("y = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): y[i] = 1")
            assert hog.status is Status.oom, hog
            late = await fork.run_cell("while True: pass", wall_seconds=0.3)
            assert late.status is Status.timeout
            assert (await fork.run_cell("'x' in globals()")).stdout == "False\n"
        assert await _value(session, "x") == "'kept'"


async def test_stopping_the_parents_code_spares_its_forks(session: Session) -> None:
    await session.run_cell("x = 1")
    async with await session.fork() as fork:
        call = asyncio.create_task(fork.run_cell("import time; time.sleep(1.5); x + 1"))
        assert (await session.run_cell("while True: pass", wall_seconds=0.3)).status is Status.timeout
        assert (await session.exec("sleep 60", wall_seconds=0.3)).status is Status.timeout
        assert (await call).stdout == "2\n"


async def test_forks_outlive_their_parent(sandbox: NamespaceSandbox) -> None:
    before = descendants(os.getpid())
    session = await sandbox.create()
    await session.run_cell("x = 1")
    await session.exec("sleep 1000 >/dev/null 2>&1 &")
    fork = await session.fork()
    grandchild = await fork.fork()
    await session.close()
    with pytest.raises(SessionLost):
        await session.run_cell("1")
    assert await _value(fork, "x") == "1"
    await fork.close()
    assert await _value(grandchild, "x") == "1"
    async with await grandchild.fork() as last:
        assert await _value(last, "x") == "1"
    await grandchild.close()
    await asyncio.gather(*sandbox._stopping)
    zygotes = {pid for pid in descendants(os.getpid()) - before if "zygote" in _command(pid)}
    assert len(zygotes) <= 4  # bubblewrap and its process 1, the keeper, the zygote


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
        return file.read()


async def test_closing_the_sandbox_ends_parents_and_forks(isolation: None) -> None:
    before = descendants(os.getpid())
    async with NamespaceSandbox() as sandbox:
        session = await sandbox.create()
        await session.run_cell("x = 1")
        forks = [await session.fork() for _ in range(3)]
        await session.close()
        assert [await _value(fork, "x") for fork in forks] == ["1"] * 3
    assert not wait_until_gone(descendants(os.getpid()) - before)


async def test_a_session_that_runs_threads_is_not_copied(session: Session) -> None:
    await session.run_cell(
        "import threading; go = threading.Event(); threading.Thread(target=go.wait).start()"
    )
    with pytest.raises(ToolError, match="threads"):
        await session.fork()
    await session.run_cell("go.set(); [t.join() for t in threading.enumerate()[1:]]; x = 5")
    async with await session.fork() as fork:
        assert await _value(fork, "x") == "5"


async def test_a_session_without_an_interpreter_gives_its_files(session: Session) -> None:
    await session.put("n", b"1")
    async with await session.fork() as fork:
        assert await fork.get("n") == b"1"
        assert await _value(fork, "open('n').read()") == "'1'"


async def test_a_hostile_interpreter_gives_no_unconfined_copy(session: Session) -> None:
    """One that keeps its capabilities, or brings company, is not taken; the parent goes on."""
    await session.run_cell(
        "import sys\nbranch = sys.modules['guest.branch']\nkept = branch.linux.drop_privileges\n"
        "branch.linux.drop_privileges = lambda: None"
    )
    with pytest.raises(ToolError, match="not confined"):
        await session.fork()
    await session.run_cell(
        "import os\ndef twice():\n    kept()\n    os.fork()\nbranch.linux.drop_privileges = twice"
    )
    with pytest.raises(ToolError, match="could not be copied"):
        await session.fork()
    await session.run_cell("branch.linux.drop_privileges = kept")
    async with await session.fork() as fork:
        assert await _value(fork, "1") == "1"


async def test_a_snapshot_gives_many_copies(session: Session) -> None:
    await session.run_cell("x = list(range(1000))")
    async with await session.fork() as snapshot:
        await session.run_cell("x.clear()")
        forks = await asyncio.gather(*(snapshot.fork() for _ in range(5)))
        assert [await _value(fork, "len(x)") for fork in forks] == ["1000"] * 5

"""What the namespace backend does beyond what the conformance suite asks of every backend."""

from __future__ import annotations

import asyncio

import pytest

from agentrl.errors import ConfigError, SandboxUnavailable, ToolError
from agentrl.sandbox import Limits, NamespaceSandbox, Session, Status, open_sandbox, view


async def test_timeout_restarts_the_interpreter_and_keeps_files(session: Session) -> None:
    await session.run_cell("x = 1; open('kept.txt', 'w').write('here')")
    result = await session.run_cell("print('begun')\nwhile True: pass", wall_seconds=0.5)
    assert result.status is Status.timeout and result.exit_code is None
    assert result.stdout == "begun\n"
    assert "0.5 s of wall time" in result.detail and "variables are gone" in result.detail
    assert "NameError" in (await session.run_cell("x")).stderr
    assert await session.get("kept.txt") == b"here"


async def test_a_stopped_command_spares_the_interpreter(session: Session) -> None:
    await session.run_cell("x = 9")
    stopped = await session.exec("while true; do (sleep 1 &) ; done", wall_seconds=0.5)
    assert stopped.status is Status.timeout
    assert (await session.run_cell("x")).stdout == "9\n"
    assert int((await session.exec("ls -d /proc/[0-9]* | wc -l")).stdout) <= 5


async def test_files_go_in_and_out(session: Session) -> None:
    data = bytes(range(256)) * 1000
    await session.put("a/b/data.bin", data)
    await session.put("a/b/data.bin", data)
    await session.put("/tmp/note", b"hello")
    assert await session.get("/workspace/a/b/data.bin") == data
    assert (await session.exec("cat /tmp/note")).stdout == "hello"
    assert (await session.run_cell("import os; os.path.getsize('a/b/data.bin')")).stdout == "256000\n"


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", "", ".", "/workspace", "a\0b", "/proc/1/mem"]
)
async def test_paths_outside_are_refused(session: Session, path: str) -> None:
    with pytest.raises(ToolError):
        await session.put(path, b"x")
    with pytest.raises(ToolError):
        await session.get(path)


async def test_links_pipes_and_giants_are_refused(session: Session) -> None:
    await session.exec(
        "ln -s /etc/passwd link; ln -s / root; ln -s /proc/self/mem mem; mkfifo pipe; "
        "truncate -s 60M big; mkdir dir"
    )
    for path in ("link", "root/etc/passwd", "mem", "pipe", "big", "dir", "absent"):
        with pytest.raises(ToolError):
            await session.get(path, max_bytes=1 << 20)
    for path in ("root/tmp/x", "dir"):
        with pytest.raises(ToolError):
            await session.put(path, b"x")
    await session.put("link", b"mine")  # replaces the link itself
    await session.put("pipe", b"mine")
    assert await session.get("link") == await session.get("pipe") == b"mine"
    with pytest.raises(ToolError, match="do not fit"):
        await session.put("big", bytes(65 << 20))


async def test_disk_and_inodes_are_limited(sandbox: NamespaceSandbox) -> None:
    async with await sandbox.create(Limits(disk_mb=4, inodes=50)) as session:
        with pytest.raises(ToolError, match="(?i)space"):
            for index in range(3):
                await session.put(f"{index}.bin", bytes(2 << 20))
        full = await session.exec("rm -f *; for i in $(seq 100); do touch /tmp/$i || exit 1; done")
        assert full.status is Status.error and "No space" in full.stderr


async def test_numpy_and_preloading(sandbox: NamespaceSandbox) -> None:
    pytest.importorskip("numpy")
    async with await sandbox.create(preload=["numpy"]) as session:
        result = await session.run_cell("import sys; 'numpy' in sys.modules")
        assert result.stdout == "True\n"
        result = await session.run_cell(
            "import numpy; int((numpy.ones((50, 50)) @ numpy.ones((50, 50))).sum())"
        )
        assert result.stdout == "125000\n", result
    with pytest.raises(ConfigError, match="no_such_module"):
        await sandbox.create(preload=["no_such_module"])


async def test_hidden_packages_are_nowhere_to_be_found(sandbox: NamespaceSandbox) -> None:
    """Neither by a cell, a program, a fork nor a stateless call, nor are they uncovered; others are there."""
    look = "find / -path '*-packages/pluggy/*.py' 2>/dev/null | wc -l"
    uncover = "umount $(dirname $(python3 -c 'import pytest; print(pytest.__file__)'))/../pluggy; "
    load = "import iniconfig, pluggy\nif not hasattr(pluggy, 'HookspecMarker'):\n    print('hidden')"
    hiding = Limits(hide=("pluggy", "no_such_package"))
    async with await sandbox.create() as session:
        assert int((await session.exec(look)).stdout) > 5
    async with await sandbox.create(hiding) as session, await session.fork() as fork:
        for each in (session, fork):
            assert (await each.run_cell(load)).stdout == "hidden\n"
            assert (await each.exec(uncover + look)).stdout == "0\n"
    assert (await sandbox.run(load, limits=hiding)).stdout == "hidden\n"
    assert (await sandbox.run(load)).stdout == ""
    with pytest.raises(ConfigError, match="hide"):
        await sandbox.create(Limits(hide=("../lib",)))


async def test_fifty_sessions_at_once_do_not_mix(sandbox: NamespaceSandbox) -> None:
    async def episode(number: int) -> str:
        async with await sandbox.create() as session:
            await session.run_cell(f"x = {number}")
            await session.put("n", str(number).encode())
            await asyncio.sleep(0.2)
            return (await session.run_cell("print(x, open('n').read())")).stdout

    async with asyncio.timeout(60):
        outputs = await asyncio.gather(*(episode(number) for number in range(50)))
    assert outputs == [f"{number} {number}\n" for number in range(50)]


async def test_sessions_wait_for_a_place(isolation: None) -> None:
    async with NamespaceSandbox(max_sessions=1) as sandbox:
        first = await sandbox.create()
        waiting = asyncio.create_task(sandbox.create())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await first.close()
        async with asyncio.timeout(10), await waiting as second:
            assert (await second.run_cell("1")).stdout == "1\n"


async def test_limits_that_cannot_be_kept_are_refused(sandbox: NamespaceSandbox) -> None:
    with pytest.raises(SandboxUnavailable, match="network"):
        await sandbox.create(Limits(network=True))
    with pytest.raises(ConfigError, match="memory_mb"):
        await sandbox.create(Limits(memory_mb=0))


async def test_without_bubblewrap_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "find_bwrap", lambda: None)
    with pytest.raises(SandboxUnavailable, match="apt-get install bubblewrap"):
        open_sandbox()
    async with NamespaceSandbox() as sandbox:
        with pytest.raises(SandboxUnavailable):
            await sandbox.create()


async def test_without_user_namespaces_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "find_bwrap", lambda: "/bin/false")
    with pytest.raises(SandboxUnavailable, match="user.max_user_namespaces"):
        open_sandbox()

"""Nothing outlives a session, a sandbox, or the process that opened it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from process_tree import descendants, wait_until_gone

from agentrl.errors import InfrastructureError, SandboxError, SessionLost
from agentrl.sandbox import NamespaceSandbox, Status, cgroups, handles

_ROOT = Path(__file__).resolve().parents[2]
_HOST = """
import asyncio
from agentrl.sandbox import NamespaceSandbox
async def main():
    sandbox = NamespaceSandbox()
    for _ in range(3):
        session = await sandbox.create()
        await session.exec("setsid sleep 1000 & setsid sleep 1000 &")
    print("ready", flush=True)
    await session.run_cell("import os\\nfor _ in range(3): os.fork()\\nwhile True: pass", wall_seconds=900)
asyncio.run(main())
"""
_ORDINARY = """
import asyncio, os
from agentrl.sandbox import Limits, open_sandbox
async def main():
    async with open_sandbox() as sandbox, await sandbox.create(Limits(memory_mb=128)) as session:
        memory = await session.run_cell("x = bytearray(1 << 29)")
        await session.run_cell("x = 1")
        cell = await session.run_cell("x + 1")
        bomb = await session.exec(":(){ :|:& };:; sleep 30", wall_seconds=0.5)
        print(os.getuid(), memory.status, cell.stdout.strip(), bomb.status)
asyncio.run(main())
"""


def _group_folders(pid: int) -> list[Path]:
    places, _ = cgroups.find()
    return [path for place in places or () for path in place.folder.glob(f"agentrl-{pid}-*")]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT)}


async def test_close_leaves_no_process_and_no_group(isolation: None) -> None:
    before = descendants(os.getpid())
    sandbox = NamespaceSandbox()
    sessions = [await sandbox.create() for _ in range(5)]
    for session in sessions[:3]:
        await session.exec("setsid sleep 1000 & setsid sleep 1000 &")
        await session.run_cell("import subprocess; subprocess.Popen(['sleep', '1000'])")
    during = descendants(os.getpid()) - before
    assert len(during) >= 3 * 3
    await sessions[0].close()
    await sandbox.close()  # with sessions still open
    await sandbox.close()
    assert not descendants(os.getpid()) - before
    assert not _group_folders(os.getpid())
    with pytest.raises(SessionLost):
        await sessions[1].run_cell("1")
    with pytest.raises(SessionLost):
        await sandbox.create()


async def test_no_descriptor_is_left_open(sandbox: NamespaceSandbox) -> None:
    async with await sandbox.create():
        pass
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        async with await sandbox.create() as session:
            await session.run_cell("1")
    assert len(os.listdir("/proc/self/fd")) <= before


def test_killing_the_host_process_ends_everything(isolation: None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOST], stdout=subprocess.PIPE, text=True, env=_environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        below = descendants(process.pid)
        assert len(below) >= 9
        process.kill()
    assert not wait_until_gone(below)
    _wait_until_no_group_is_left(process.pid)


def _wait_until_no_group_is_left(pid: int) -> None:
    """Of a process that was killed: who removes them is no child of its own."""
    deadline = time.monotonic() + 20
    while left := _group_folders(pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _zygote_pids(sandbox: NamespaceSandbox) -> list[int]:
    """bubblewrap, its process 1, the keeper, the zygote."""
    found = []
    for zygote in sandbox._zygotes.values():
        pid = zygote._process.pid
        for _ in range(3):
            (pid,) = _children(pid)
        found.append(pid)
    return found


async def test_a_dead_zygote_takes_no_session_with_it(sandbox: NamespaceSandbox) -> None:
    session, other = await sandbox.create(), await sandbox.create()
    await session.run_cell("x = 1")
    call = asyncio.create_task(session.run_cell("import time; time.sleep(1); x + 1"))
    await asyncio.sleep(0.1)
    for pid in _zygote_pids(sandbox):
        os.kill(pid, signal.SIGKILL)
    async with await sandbox.create() as fresh:
        assert (await fresh.run_cell("1")).stdout == "1\n"
    assert (await call).stdout == "2\n"
    await other.put("n", b"2")
    assert (await other.run_cell("open('n').read()")).stdout == "'2'\n"
    assert (await sandbox.run("print(3)")).stdout == "3\n"
    old = next(iter(sandbox._retired))
    await session.close()
    await other.close()
    assert not sandbox._retired
    await asyncio.gather(*sandbox._stopping)
    assert not old.alive


async def test_sessions_are_made_while_zygotes_are_killed(sandbox: NamespaceSandbox) -> None:
    """A request that a dying zygote took is made again, or there is a typed error."""

    async def episode() -> str:
        async with await sandbox.create() as session:
            return (await session.run_cell("print('made')")).stdout

    await episode()
    for _ in range(5):
        episodes = [asyncio.create_task(episode()) for _ in range(10)]
        await asyncio.sleep(0)
        for pid in _zygote_pids(sandbox):
            os.kill(pid, signal.SIGKILL)
        for outcome in await asyncio.gather(*episodes, return_exceptions=True):
            assert outcome == "made\n" or isinstance(outcome, SandboxError), outcome
        assert await episode() == "made\n"


async def test_a_dead_bubblewrap_is_infrastructure_and_is_replaced(sandbox: NamespaceSandbox) -> None:
    session = await sandbox.create()
    assert (await session.run_cell("1")).status is Status.ok
    call = asyncio.create_task(session.run_cell("import time; time.sleep(60)"))
    await asyncio.sleep(0.2)
    for zygote in sandbox._zygotes.values():
        zygote._process.send_signal(signal.SIGKILL)
    with pytest.raises(InfrastructureError):
        await call
    with pytest.raises(SessionLost):
        await session.get("x")
    async with await sandbox.create() as fresh:
        assert (await fresh.run_cell("1")).stdout == "1\n"


async def test_a_session_whose_first_process_dies_is_lost(sandbox: NamespaceSandbox) -> None:
    session = await sandbox.create()
    call = asyncio.create_task(session.run_cell("import time; time.sleep(60)"))
    await asyncio.sleep(0.2)
    session._kill()
    assert (await call).status is Status.session_lost
    assert (await session.run_cell("1")).status is Status.session_lost
    await session.close()


async def test_a_process_that_ends_as_a_request_comes_costs_nothing(sandbox: NamespaceSandbox) -> None:
    """The supervisor wakes to both at once, and its answer to the request takes the news of the other."""
    async with await sandbox.create() as session:
        await session.run_cell("x = 1")
        for victim in ("sleep", "python"):  # one that a command left behind, then the interpreter
            await session.exec("sleep 1000 >/dev/null 2>&1 &")
            supervisor = handles.pid_of(session._pidfd)
            pids = [pid for pid in descendants(supervisor) if victim in _command(pid)]
            os.kill(supervisor, signal.SIGSTOP)
            try:
                call = asyncio.create_task(session.exec("echo heard"))
                await asyncio.sleep(0.05)
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                assert pids and not wait_until_gone(set(pids))
            finally:
                os.kill(supervisor, signal.SIGCONT)
            assert (await call).stdout == "heard\n"
            assert (await session.run_cell("2")).stdout == "2\n"


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]


async def test_a_bubblewrap_that_fails_is_an_infrastructure_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from agentrl.sandbox import view

    monkeypatch.setattr(view, "find_bwrap", lambda: "/bin/false")
    async with NamespaceSandbox() as sandbox:
        with pytest.raises(SandboxError, match="could not start"):
            await sandbox.create()


def test_the_view_shows_nothing_of_the_temporary_folder(isolation: None, tmp_path: Path) -> None:
    before = set(os.listdir(tmp_path.parent))
    asyncio.run(_open_and_close())
    assert set(os.listdir(tmp_path.parent)) == before


async def _open_and_close() -> None:
    async with NamespaceSandbox() as sandbox, await sandbox.create() as session:
        await session.exec("touch /tmp/leak; echo x > leak")


_KILLED_WITH_ITS_CHILDREN = """
import asyncio, os, signal
from agentrl.sandbox import NamespaceSandbox

async def main():
    sandbox = NamespaceSandbox()
    session = await sandbox.create()
    await session.run_cell("1")
    print(os.getpid(), flush=True)
    for child in open(f"/proc/self/task/{os.getpid()}/children").read().split():
        os.kill(int(child), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_a_process_killed_together_with_its_children_leaves_no_control_group(isolation: None) -> None:
    """As a Ray worker ends: Ray kills its children with it, and they must not include who cleans up."""
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_WITH_ITS_CHILDREN], stdout=subprocess.PIPE, text=True, timeout=60
    )
    _wait_until_no_group_is_left(int(done.stdout))


@pytest.mark.skipif(os.geteuid() != 0, reason="already run by an ordinary user")
def test_an_ordinary_user_can_use_it(isolation: None, tmp_path: Path) -> None:
    """With the system's Python: the one that runs this test may be out of that user's reach."""
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin")
    if (
        python is None
        or subprocess.run([python, "-c", "import enum; enum.StrEnum"], capture_output=True).returncode
    ):
        pytest.skip("no system Python of a recent enough version")
    package = tmp_path / "code" / "agentrl"
    package.mkdir(parents=True)
    shutil.copy(_ROOT / "agentrl" / "errors.py", package)
    (package / "__init__.py").touch()
    shutil.copytree(_ROOT / "sandbox", package / "sandbox")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder != Path(tempfile.gettempdir()):
            folder.chmod(0o755)
    done = subprocess.run(
        [python, "-c", _ORDINARY],
        env={"PYTHONPATH": str(tmp_path / "code"), "PATH": os.environ["PATH"]},
        cwd="/", user=65_534, group=65_534, extra_groups=[], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["65534", "oom", "2", "timeout"], done

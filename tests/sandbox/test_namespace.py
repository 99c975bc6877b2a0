"""What callers may rely on: state, typed statuses, limits, files, many sessions at once."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from agentrl.errors import ConfigError, NotFound, SandboxUnavailable, SessionLost, ToolError
from agentrl.sandbox import Limits, NamespaceSandbox, Session, Status, open_sandbox, view


async def test_cells_keep_their_variables_and_print_the_last_value(session: Session) -> None:
    first = await session.run_cell("import math\nx = 20\nprint('set')")
    second = await session.run_cell("x += 1\nx * 2")
    third = await session.run_cell("None")
    assert (first.status, first.stdout, first.exit_code, first.detail) == (Status.ok, "set\n", 0, "")
    assert second.stdout == "42\n"
    assert third.stdout == ""


async def test_an_exception_is_an_error_with_the_cells_own_traceback(session: Session) -> None:
    await session.run_cell("def f(n):\n    return 1 / n")
    result = await session.run_cell("before = 1\nf(0)")
    assert result.status is Status.error
    assert "ZeroDivisionError" in result.stderr and "return 1 / n" in result.stderr
    assert "worker" not in result.stderr
    assert (await session.run_cell("before")).stdout == "1\n"


@pytest.mark.parametrize(
    "code", ["1 +", "x = '\0'", "\ud800", "raise BaseException('odd')", "raise SystemExit('no')"]
)
async def test_code_that_cannot_run_is_an_error(session: Session, code: str) -> None:
    result = await session.run_cell(code)
    assert result.status is Status.error and result.stderr
    assert (await session.run_cell("1")).stdout == "1\n"


async def test_leaving_a_cell_keeps_the_interpreter(session: Session) -> None:
    await session.run_cell("x = 5")
    assert (await session.run_cell("import sys; sys.exit(0)")).status is Status.ok
    assert (await session.run_cell("exit(3)")).exit_code == 3
    assert (await session.run_cell("x")).stdout == "5\n"


async def test_a_forked_copy_of_the_interpreter_does_not_answer(session: Session) -> None:
    result = await session.run_cell(
        "import os\nif os.fork() == 0:\n    print('child')\nelse:\n    os.wait(); print('parent')"
    )
    assert sorted(result.stdout.split()) == ["child", "parent"]
    assert (await session.run_cell("print('once')")).stdout == "once\n"


async def test_timeout_restarts_the_interpreter_and_keeps_files(session: Session) -> None:
    await session.run_cell("x = 1; open('kept.txt', 'w').write('here')")
    result = await session.run_cell("print('begun')\nwhile True: pass", wall_seconds=0.5)
    assert result.status is Status.timeout and result.exit_code is None
    assert result.stdout == "begun\n"
    assert "0.5 s of wall time" in result.detail and "variables are gone" in result.detail
    assert "NameError" in (await session.run_cell("x")).stderr
    assert await session.get("kept.txt") == b"here"


async def test_cpu_time_is_limited_for_all_processes_together(sandbox: NamespaceSandbox) -> None:
    async with await sandbox.create(Limits(cpu_seconds=0.5, wall_seconds=20)) as session:
        code = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
        result = await session.run_cell(code)
        assert result.status is Status.timeout and "CPU time" in result.detail


async def test_memory_limit_of_one_process(sandbox: NamespaceSandbox) -> None:
    async with await sandbox.create(Limits(memory_mb=128)) as session:
        result = await session.run_cell("x = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): x[i] = 1")
        assert result.status is Status.oom
        assert (await session.run_cell("1")).stdout == "1\n"


async def test_memory_limit_holds_for_the_sum(sandbox: NamespaceSandbox) -> None:
    if any("per process" in sentence for sentence in NamespaceSandbox.availability().weaker):
        pytest.skip("this machine cannot make control groups; the weaker promise is stated by availability()")
    async with await sandbox.create(Limits(memory_mb=128)) as session:
        one = "x = b'x' * (40 << 20); import time; time.sleep(30)"
        result = await session.exec(f'for i in 1 2 3 4 5 6; do python3 -S -c "{one}" & done; wait -n; exit 9')
        assert result.status is Status.oom, result


async def test_a_crash_is_told_from_an_error(session: Session) -> None:
    aborted = await session.run_cell("import os; os.abort()")
    left = await session.run_cell("import os; os._exit(7)")
    command = await session.exec("kill -SEGV $$")
    assert (aborted.status, aborted.exit_code) == (Status.crashed, -6)
    assert (left.status, left.exit_code) == (Status.crashed, 7)
    assert (command.status, command.exit_code) == (Status.crashed, -11)
    assert (await session.run_cell("1")).stdout == "1\n"


async def test_an_interpreter_that_dies_between_calls_is_reported(session: Session) -> None:
    await session.run_cell("import os, threading; threading.Timer(0.2, os._exit, (1,)).start(); x = 1")
    await asyncio.sleep(0.6)
    result = await session.run_cell("'x' in globals()")
    assert result.stdout == "False\n" and "variables are gone" in result.detail


async def test_output_is_cut_and_a_flood_is_stopped(sandbox: NamespaceSandbox) -> None:
    async with await sandbox.create(Limits(output_bytes=1000)) as session:
        cut = await session.run_cell("import sys\nprint('a' * 3000)\nprint('b' * 3000, file=sys.stderr)")
        assert cut.status is Status.ok and cut.truncated and "output cut" in cut.detail
        assert (cut.stdout, cut.stderr) == ("a" * 1000, "b" * 1000)
        flood = await session.run_cell("while True: sys.stdout.write('A' * 100000)")
        assert flood.status is Status.output_limit and len(flood.stdout) == 1000
        flood = await session.exec("yes | tr -d '\\n'")
        assert flood.status is Status.output_limit


async def test_commands_and_their_input(session: Session) -> None:
    assert (await session.exec("cat; echo $((6 * 7)) >&2", stdin=b"in")).stdout == "in"
    assert (await session.exec(["printf", "%s|", "a b", "$HOME"])).stdout == "a b|$HOME|"
    failed = await session.exec("exit 3")
    assert (failed.status, failed.exit_code) == (Status.error, 3)
    missing = await session.exec(["no-such-program"])
    assert missing.exit_code == 127 and "No such file" in missing.stderr
    slow = await session.exec("sleep 60", wall_seconds=0.3)
    assert slow.status is Status.timeout
    unread = await session.exec("true", stdin=b"x" * (1 << 20))
    assert unread.status is Status.ok


async def test_a_stopped_command_spares_the_interpreter(session: Session) -> None:
    await session.run_cell("x = 9")
    stopped = await session.exec("while true; do (sleep 1 &) ; done", wall_seconds=0.5)
    assert stopped.status is Status.timeout
    assert (await session.run_cell("x")).stdout == "9\n"
    assert int((await session.exec("ls -d /proc/[0-9]* | wc -l")).stdout) <= 5


async def test_a_background_process_does_not_hold_up_the_reply(session: Session) -> None:
    async with asyncio.timeout(5):
        result = await session.exec("(while sleep 0.05; do echo more; done) & echo done")
        assert result.status is Status.ok and result.stdout.startswith("done")
        cell = await session.run_cell("import subprocess; subprocess.Popen(['sleep', '60']).poll()")
        assert cell.status is Status.ok
    await asyncio.sleep(0.3)
    assert (await session.exec("kill %1 2>/dev/null; pgrep -c sleep")).stdout.strip() != "0"


async def test_a_local_server_works_across_calls(session: Session) -> None:
    await session.exec("(python3 -S -m http.server 8000 >/dev/null 2>&1 &)")
    fetch = (
        "import urllib.request, time\n"
        "for _ in range(100):\n"
        "    try: print(urllib.request.urlopen('http://localhost:8000/').status); break\n"
        "    except OSError: time.sleep(0.05)"
    )
    assert (await session.run_cell(fetch)).stdout == "200\n"


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


async def test_calls_on_one_session_take_turns(session: Session) -> None:
    codes = [f"print({index})" for index in range(20)]
    results = await asyncio.gather(*(session.run_cell(code) for code in codes))
    assert [result.stdout for result in results] == [f"{index}\n" for index in range(20)]


async def test_a_cancelled_call_ends_its_session_only(sandbox: NamespaceSandbox) -> None:
    async with await sandbox.create() as session, await sandbox.create() as sibling:
        call = asyncio.create_task(session.run_cell("import time; time.sleep(60)"))
        await asyncio.sleep(0.3)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        result = await session.run_cell("1")
        assert result.status is Status.session_lost and "cancelled" in result.detail
        with pytest.raises(SessionLost):
            await session.get("x")
        assert (await sibling.run_cell("1")).stdout == "1\n"


async def test_a_closed_session_is_not_a_result(sandbox: NamespaceSandbox) -> None:
    session = await sandbox.create()
    await session.close()
    await session.close()
    with pytest.raises(SessionLost, match="closed"):
        await session.run_cell("1")


async def test_limits_that_cannot_be_kept_are_refused(sandbox: NamespaceSandbox) -> None:
    with pytest.raises(SandboxUnavailable, match="network"):
        await sandbox.create(Limits(network=True))
    with pytest.raises(ConfigError, match="memory_mb"):
        await sandbox.create(Limits(memory_mb=0))


async def test_backends_are_found_by_name(isolation: None) -> None:
    async with open_sandbox() as sandbox, await sandbox.create() as session:
        assert (await session.run_cell("1")).stdout == "1\n"
    with pytest.raises(NotFound, match="namespace"):
        open_sandbox("nampesace")


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

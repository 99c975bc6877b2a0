"""Sandboxes on servers elsewhere: real servers on real ports, in processes that die."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from sandbox_server import Breaking, fusion_server, server_process, serving

from agentrl.errors import (
    ConfigError,
    SandboxError,
    SandboxUnavailable,
    ServerBusy,
    SessionLost,
    ToolError,
)
from agentrl.registry import find_tool
from agentrl.sandbox import Limits, NamespaceSandbox, Result, Session, Status, open_sandbox
from agentrl.sandbox.conformance import ATTACKS, Promise, Suite, promises
from agentrl.sandbox.remote import RemoteSandbox
from agentrl.sandbox.wire_http import SESSIONS, pack, pack_result, to_result, unpack
from agentrl.serve.app import make_app
from agentrl.serve.local import LocalHost, SessionLimits
from agentrl.serve.sandboxes import SandboxSessions
from agentrl.serve.server import listening, protocol_routes

pytestmark = pytest.mark.slow

PATIENT = Limits(wall_seconds=60, cpu_seconds=60)
SOME_ATTACKS = frozenset(attack.name for attack in ATTACKS[::12])
"""The same code runs in the same backend as in test_conformance.py; these show that the way there holds."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def suite(isolation: None) -> AsyncIterator[Suite]:
    async with server_process() as (url, _), Suite(lambda: RemoteSandbox(url)) as suite:
        yield suite


@pytest.mark.parametrize(
    "promise",
    [each for each in promises() if each.group != "attacks" or each.name in SOME_ATTACKS],
    ids=lambda promise: f"{promise.group}-{promise.name}",
)
@pytest.mark.asyncio(loop_scope="module")
async def test_remote_keeps_what_namespace_does(promise: Promise, suite: Suite) -> None:
    check = await suite.check(promise)
    assert check.ok, f"{promise.text}\n{check.detail}"


@pytest.fixture
async def sessions(sandbox: NamespaceSandbox) -> SandboxSessions:
    return SandboxSessions(sandbox, limits=SessionLimits(most=4, grace_seconds=0.5))


@pytest.fixture
async def url(sessions: SandboxSessions) -> AsyncIterator[str]:
    async with serving(sessions) as url:
        yield url


@pytest.fixture
async def remote(url: str) -> AsyncIterator[RemoteSandbox]:
    async with RemoteSandbox(url, patience=0.0) as remote:
        yield remote


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what is bound to come; the test's own time limit ends it otherwise."""
    while not condition():
        await asyncio.sleep(0.02)


async def calls_run(url: str) -> None:
    """Wait until a server says that a call runs."""
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.get(url + "/metrics") as response:
                if re.search(r"^agentrl_calls_running [1-9]", await response.text(), re.MULTILINE):
                    return
            await asyncio.sleep(0.02)


async def test_a_front_that_replaced_a_dead_server_is_asked_again(isolation: None) -> None:
    servers: list[str] = []

    async def named(request: web.Request) -> web.Response:
        return web.json_response({"servers": servers})

    front = web.Application()
    front.router.add_get("/v1/servers", named)
    async with (
        server_process() as (first, process),
        server_process() as (second, _),
        listening(front, "127.0.0.1", 0) as url,
        RemoteSandbox(url) as remote,
    ):
        servers[:] = [first]
        assert (await remote.run("print(1)")).stdout == "1\n"
        process.kill()
        servers[:] = [second]
        assert (await remote.run("print(2)")).stdout == "2\n"
        async with await remote.create() as session:
            assert (await session.run_cell("3")).stdout == "3\n"


async def test_a_server_killed_in_mid_call_is_told_to_every_caller(isolation: None) -> None:
    async with server_process() as (url, process), RemoteSandbox(url) as remote:
        session = await remote.create(PATIENT)
        other = await remote.create(PATIENT)
        call = asyncio.ensure_future(session.exec("sleep 50"))
        await calls_run(url)
        process.kill()
        with pytest.raises(SessionLost, match="cannot be reached"):
            await call
        with pytest.raises(SessionLost):
            await session.get("x")
        with pytest.raises(SessionLost):
            await other.run_cell("1")
        with pytest.raises(SandboxError, match="cannot be reached"):
            await remote.create()
        with pytest.raises(SandboxError, match="cannot be reached"):
            await remote.run("1")


async def test_of_two_servers_one_dies(isolation: None) -> None:
    async with (
        server_process() as (dying, process),
        server_process() as (living, _),
        RemoteSandbox([dying, living]) as remote,
    ):
        sessions: list[Session] = []
        # hashing sends them to either, by chance
        while {_server(session) for session in sessions} != {dying, living}:
            sessions.append(await remote.create())
            await sessions[-1].run_cell(f"x = {len(sessions)}")
        process.kill()
        await process.wait()
        told = [await _cell_or_lost(session, "x") for session in sessions]
        kept = [f"{number}\n" for number, session in enumerate(sessions, 1) if _server(session) == living]
        assert [each for each in told if each] == kept
        assert told.count("") == sum(_server(session) == dying for session in sessions)
        for _ in range(4):
            async with await remote.create() as session:
                assert _server(session) == living
                assert (await session.run_cell("6 * 7")).stdout == "42\n"
            assert (await remote.run("print(1)")).stdout == "1\n"


def _server(session: Session) -> str:
    return session.server  # type: ignore[attr-defined]


async def _cell_or_lost(session: Session, code: str) -> str:
    try:
        return (await session.run_cell(code)).stdout
    except SessionLost:
        return ""


@pytest.mark.parametrize("early", [True, False], ids=["while-it-runs", "after-it-ended"])
async def test_a_call_sent_twice_runs_once(url: str, early: bool) -> None:
    breaking = Breaking(url, "/exec", early=early)
    async with breaking.listening() as address, RemoteSandbox(address) as remote:
        session = await remote.create(PATIENT)
        result = await session.exec("echo run >> log; sleep 0.3; cat log")
        assert (result.status, result.stdout, breaking.broken) == (Status.ok, "run\n", 1)
        assert await session.get("log") == b"run\n"


async def test_a_session_asked_for_twice_is_one(url: str, sessions: SandboxSessions) -> None:
    breaking = Breaking(url, SESSIONS, early=False)
    async with breaking.listening() as address, RemoteSandbox(address) as remote:
        session = await remote.create()
        assert (sessions.count, breaking.broken) == (1, 1)
        assert (await session.run_cell("1")).stdout == "1\n"


async def test_names_cannot_be_guessed(url: str, remote: RemoteSandbox) -> None:
    async with aiohttp.ClientSession() as http:
        names = set()
        for number in range(2):
            async with http.post(url + SESSIONS, data=pack({"id": f"call-{number}"})) as response:
                header, _ = unpack(await response.read())
                names.add(header["session"])
        assert len(names) == 2
        assert all(len(name) >= 32 for name in names)
        for name in ("0", "1", "call-0"):
            body = pack({"id": "x"}, b"1", b"")
            async with http.post(f"{url}{SESSIONS}/{name}/cell", data=body) as response:
                assert response.status == 410
                assert (await response.json())["error"]["kind"] == "SessionLost"


async def test_malformed_requests_are_refused_with_reasons(url: str) -> None:
    header = {"id": "x", "limits": {"no_such": 1}}
    bodies = [b"", b"{}", b"[]\n", b'{"parts": [5]}\n', pack({}), pack({"id": "x"}, b"part"), pack(header)]
    async with aiohttp.ClientSession() as http:
        for body in bodies:
            async with http.post(url + SESSIONS, data=body) as response:
                problem = (await response.json())["error"]
                assert problem["kind"] in ("BadRequest", "ConfigError"), (body, problem)
                assert problem["message"]


async def test_a_token_is_wanted(sandbox: NamespaceSandbox) -> None:
    async with serving(SandboxSessions(sandbox), token="secret") as url:
        for wrong in (None, "guess"):
            async with RemoteSandbox(url, token=wrong) as remote:
                assert "token" in (await remote.check()).reason
                with pytest.raises(ConfigError, match="token"):
                    await remote.create()
                with pytest.raises(ConfigError, match="token"):
                    await remote.run("1")
        async with RemoteSandbox(url, token="secret") as remote:
            assert (await remote.run("print(1)")).stdout == "1\n"


async def test_a_full_server_says_when_to_come_again(url: str, remote: RemoteSandbox) -> None:
    sessions = [await remote.create() for _ in range(4)]
    with pytest.raises(ServerBusy) as caught:
        await remote.create()
    assert caught.value.retry_after > 0
    assert caught.value.queue_full
    async with RemoteSandbox(url, patience=60.0) as patient:
        waiting = asyncio.ensure_future(patient.create())
        await sessions[0].close()
        assert (await (await waiting).run_cell("1")).stdout == "1\n"


async def test_sessions_end_when_their_time_is_over(sandbox: NamespaceSandbox) -> None:
    now = 0.0
    limits = SessionLimits(idle_seconds=10, total_seconds=25)
    sessions = SandboxSessions(sandbox, limits=limits, clock=lambda: now)
    async with serving(sessions) as url, RemoteSandbox(url) as remote:
        idle, used = await remote.create(), await remote.create()
        now = 9.0
        await used.run_cell("1")
        now = 18.0
        await until(lambda: sessions.count == 1)
        with pytest.raises(SessionLost, match="idle for 10 s"):
            await idle.run_cell("1")
        await used.run_cell("1")
        now = 26.0
        await until(lambda: sessions.count == 0)
        with pytest.raises(SessionLost, match="25 s were over"):
            await used.run_cell("1")


async def test_work_ends_when_its_caller_goes_away(url: str, sessions: SandboxSessions) -> None:
    """A connection that closes and does not come back, as of a process that was killed."""
    async with aiohttp.ClientSession() as http:
        async with http.post(url + SESSIONS, data=pack({"id": "one"})) as response:
            header, _ = unpack(await response.read())
        body = pack({"id": "two", "wall": 60}, b"import time; time.sleep(50)", b"")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await http.post(f"{url}{SESSIONS}/{header['session']}/cell", data=body)
        await until(lambda: sessions.count == 0)


async def test_a_cancelled_call_frees_its_session(remote: RemoteSandbox, sessions: SandboxSessions) -> None:
    session = await remote.create(PATIENT)
    call = asyncio.ensure_future(session.run_cell("import time; time.sleep(50)"))
    await asyncio.sleep(0.2)
    call.cancel()
    await until(lambda: sessions.count == 0)
    with pytest.raises(SessionLost, match="cancelled"):
        await session.run_cell("1")


async def test_a_deadline_stops_the_work(url: str, sessions: SandboxSessions) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.post(url + SESSIONS, data=pack({"id": "one"})) as response:
            header, _ = unpack(await response.read())
        body = pack({"id": "two", "wall": 60, "seconds": 0.3}, b"import time; time.sleep(50)", b"")
        async with http.post(f"{url}{SESSIONS}/{header['session']}/cell", data=body) as response:
            assert (await response.json())["error"]["kind"] == "SessionLost"
        await until(lambda: sessions.count == 0)


async def test_errors_keep_their_kinds(remote: RemoteSandbox) -> None:
    with pytest.raises(SandboxUnavailable, match="network"):
        await remote.create(Limits(network=True))
    with pytest.raises(ConfigError, match="memory_mb"):
        await remote.run("1", limits=Limits(memory_mb=0))
    async with await remote.create() as session:
        with pytest.raises(ToolError):
            await session.get("absent")
        with pytest.raises(ToolError, match="do not fit"):
            await session.put("big", bytes(65 << 20))


async def test_stateless_calls_take_and_give_files(remote: RemoteSandbox, fusion: RemoteSandbox) -> None:
    files = {"a/b": b"\xff\n", "c": b""}
    for sandbox in (remote, fusion):
        result = await sandbox.run("cat a/b > d", language="bash", files=files, fetch=["c", "d", "e"])
        assert result.files == {"c": b"", "d": b"\xff\n"}


async def test_closing_leaves_no_session(url: str, sessions: SandboxSessions) -> None:
    remote = RemoteSandbox(url)
    for _ in range(3):
        await remote.create()
    making = asyncio.ensure_future(remote.create())
    await asyncio.sleep(0)
    making.cancel()
    await remote.close()
    assert sessions.count == 0
    with pytest.raises(SessionLost):
        await remote.create()


async def test_check_asks_the_servers(url: str, remote: RemoteSandbox) -> None:
    told, here = await remote.check(), NamespaceSandbox.availability()
    assert told.ok
    assert told.isolates == here.isolates
    async with RemoteSandbox(["http://127.0.0.1:1", url]) as partly:
        assert "http://127.0.0.1:1 cannot be reached" in (await partly.check()).reason
        assert (await partly.run("print(1)")).stdout == "1\n"
    async with RemoteSandbox("http://127.0.0.1:1") as absent:
        assert "cannot be reached" in (await absent.check()).reason


async def test_it_is_found_by_name(url: str) -> None:
    async with open_sandbox("remote", servers=[url]) as remote:
        assert (await remote.run("print(1)")).stdout == "1\n"
    with pytest.raises(ConfigError, match="servers"):
        open_sandbox("remote")
    with pytest.raises(ConfigError, match="http"):
        RemoteSandbox("localhost:8000")
    with pytest.raises(ConfigError, match="sandbox-fusion"):
        RemoteSandbox(url, protocol="other")  # type: ignore[arg-type]


def test_a_result_survives_the_way() -> None:
    result = Result(Status.oom, "out ✓\n", "err\0", -9, 0.25, True, "why", {"a/b": b"\n\xff", "c": b""})
    assert to_result(*unpack(pack_result(result))) == result
    with pytest.raises(SandboxError):
        to_result({"status": "ok"}, [b"", b""])


# ---- SandboxFusion's protocol


@pytest.fixture
async def fusion(sandbox: NamespaceSandbox) -> AsyncIterator[RemoteSandbox]:
    async with (
        fusion_server(sandbox) as url,
        RemoteSandbox(["http://127.0.0.1:1", url], protocol="sandbox-fusion") as remote,
    ):
        yield remote


async def test_fusion_runs_programs(fusion: RemoteSandbox) -> None:
    assert (await fusion.run("import sys; print(sys.stdin.read())", stdin=b"\xc3\xa9")).stdout == "é\n"
    bash = await fusion.run("cat; exit 3", language="bash", stdin=b"in")
    assert (bash.status, bash.stdout, bash.exit_code) == (Status.error, "in", 3)
    async with await fusion.create(PATIENT) as session:
        late = await session.exec("echo begun; sleep 50", wall_seconds=1.0)
        assert late.status is Status.timeout
        assert "as they were" in late.detail
        assert (await session.exec(["printf", "%s|", "a b", "$HOME"])).stdout == "a b|$HOME|"


async def test_fusion_files_stay_in_the_session(fusion: RemoteSandbox) -> None:
    async with await fusion.create(PATIENT) as session, await fusion.create(PATIENT) as other:
        data = bytes(range(256))
        await session.put("a/b c.bin", data)
        await session.run_script("open('made', 'w').write('by a script')")
        assert await session.get("made") == b"by a script"
        copy = await session.fork()
        await session.exec("rm made; mkdir empty")
        assert await session.get("a/b c.bin") == data
        assert await copy.get("made") == b"by a script"
        assert (await other.exec("ls")).stdout == ""
        for path in ("made", "empty", "../x", "/etc/passwd", ""):
            with pytest.raises(ToolError):
                await session.get(path)
        with pytest.raises(ToolError, match="256 bytes"):
            await session.get("a/b c.bin", max_bytes=255)
        with pytest.raises(ToolError, match="before the call"):  # the server gives no files so large
            await session.exec("rm -r a; head -c 2M /dev/urandom > big")
        assert await session.get("a/b c.bin") == data
        await session.close()
        with pytest.raises(SessionLost):
            await session.exec("true")


async def test_fusion_speaks_to_our_own_server_too(sandbox: NamespaceSandbox) -> None:
    async with (
        LocalHost([find_tool("code")], sandbox) as host,
        listening(make_app(host, protocols=protocol_routes(host)), "127.0.0.1", 0) as url,
        RemoteSandbox(url, protocol="sandbox-fusion") as remote,
        await remote.create(PATIENT) as session,
    ):
        await session.put("a", b"1\n")
        result = await session.run_script("print(open('a').read() + input())", stdin=b"2\n")
        assert (result.status, result.stdout) == (Status.ok, "1\n2\n")
        assert (await session.exec("echo 3 >> a; exit 4")).exit_code == 4
        assert await session.get("a") == b"1\n3\n"


async def test_fusion_refuses_what_it_cannot_do(fusion: RemoteSandbox) -> None:
    for limits in (Limits(network=True), replace(PATIENT, memory_mb=64), replace(PATIENT, processes=2)):
        with pytest.raises(SandboxUnavailable):
            await fusion.create(limits)
    with pytest.raises(ConfigError):
        await fusion.create(Limits(wall_seconds=0))
    async with await fusion.create() as session:
        with pytest.raises(SandboxUnavailable, match="cell"):
            await session.run_cell("1")
    assert fusion.forks == "files"

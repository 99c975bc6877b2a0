"""A front and worker processes: every protocol, workers that die, and how all of it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from front_support import Front, appears, fronted, refusal, vanishes

from agentrl.errors import ConfigError, InfrastructureError, ServerBusy, SessionLost
from agentrl.sandbox import Limits, open_sandbox
from agentrl.serve.client import ToolClient
from agentrl.serve.front import Fleet, Worker
from agentrl.serve.host import CallRequest
from agentrl.serve.metrics import FrontMetrics, RequestMetrics, merged
from agentrl.serve.server import listening

TWO = ("--workers", "2")


def slow(session: str, touch: Path | None = None, until: Path | None = None) -> CallRequest:
    arguments = {"touch": str(touch or ""), "until": str(until or "")}
    return CallRequest("slow", arguments, session)


async def pid_of(client: ToolClient, session: str) -> int:
    """The worker process that a session lives in."""
    return int((await client.call(slow(session))).observation.text.split()[0])


async def open_on_both(client: ToolClient, front: Front, prefix: str) -> dict[str, list[str]]:
    """Sessions by the worker that they live on; some on each."""
    homes: dict[str, list[str]] = {url: [] for url in await front.workers()}
    number = 0
    while not all(len(names) >= 2 for names in homes.values()):
        name = f"{prefix}{number}"
        await client.open(name)
        homes[str(client.home(name))].append(name)
        number += 1
    return homes


async def test_every_protocol_is_spoken_at_the_front_and_the_workers_answer(tmp_path: Path) -> None:
    async with fronted(tmp_path, "code{seconds: 5}", *TWO, "--host", "0.0.0.0", token="secret") as front:
        url = front.url.replace("0.0.0.0", "127.0.0.1")
        front = Front(url, front.process, "secret")
        workers = await front.workers()
        assert len(workers) == 2 and url not in workers and all("127.0.0.1" in each for each in workers)
        assert (await front.get("/ready"))[0] == 200

        assert await front.post("/v1/sessions/s", {}) == {}
        for count in (1, 2):
            answer = await front.post("/v1/sessions/s/calls", {"tool": "slow"})
            assert answer["observation"]["text"].split()[1] == str(count)
        ran = await front.post("/run_code", {"code": "print(6 * 7)", "language": "python"})
        assert ran["run_result"]["stdout"] == "42\n"
        batch = {
            "trajectory_ids": ["t"], "actions": ["<python>print(1)</python>"], "finish": [False],
            "is_last_step": [False], "extra_fields": [{}],
        }  # fmt: skip
        assert "1" in str((await front.post("/get_observation", batch))["observations"])

        page = (await front.get("/metrics"))[1]
        assert 'agentrl_workers{worker="front"} 2.0' in page
        calls = [line for line in page.splitlines() if line.startswith("agentrl_calls_total{")]
        assert sum(float(line.split()[-1]) for line in calls) >= 4
        assert all(any(worker.rpartition(":")[2] in line for worker in workers) for line in calls)

        async with ToolClient(url, token="secret") as client:
            homes = await open_on_both(client, front, "direct")
            assert set(homes) == set(workers)
            pids = {await pid_of(client, names[0]) for names in homes.values()}
            assert len(pids) == 2 and front.process.pid not in pids
        sandbox = open_sandbox("remote", servers=[url], token="secret")
        async with sandbox, await sandbox.create(Limits()) as session:
            assert (await session.run_script("print(5)")).stdout == "5\n"
        async with aiohttp.ClientSession() as http, http.get(url + "/v1/servers") as refused:
            assert refused.status == 401


async def test_a_worker_that_dies_costs_its_sessions_and_is_replaced(tmp_path: Path) -> None:
    async with fronted(tmp_path, *TWO) as front, ToolClient(front.url, refresh_seconds=0) as client:
        homes = await open_on_both(client, front, "s")
        (dead, lost), (_, kept) = homes.items()
        pid = await pid_of(client, lost[0])
        touched = tmp_path / "touched"
        running = asyncio.ensure_future(client.call(slow(lost[0], touched, tmp_path / "never")))
        await appears(touched)
        through = [f"/v1/sessions/through{number}" for number in range(8)]
        for path in through:
            assert await front.post(path, {}) == {}
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(SessionLost, match="gone with its server"):
            await running
        with pytest.raises(SessionLost):
            await client.call(slow(lost[1]))
        for name in kept:
            answer = await client.call(slow(name))
            assert answer.observation.text.split()[1] == "1"
        answers = [await front.post(f"{path}/calls", {"tool": "slow"}) for path in through]
        kinds = {answer.get("status") or answer["error"]["kind"] for answer in answers}
        assert kinds <= {"ok", "SessionLost"}
        await front.workers_without(dead, 2)
        homes = await open_on_both(client, front, "new")
        assert dead not in homes
        assert len({await pid_of(client, names[0]) for names in homes.values()} - {pid}) == 2
        assert 'agentrl_workers_replaced_total{worker="front"} 1.0' in (await front.get("/metrics"))[1]
        unknown = await front.post("/v1/sessions/nobody/calls", {"tool": "slow"})
        assert unknown["error"]["kind"] == "SessionLost"


async def test_told_to_end_it_lets_calls_end_and_leaves_nothing(tmp_path: Path) -> None:
    async with fronted(tmp_path, *TWO) as front:
        async with ToolClient(front.url, patience=0) as client:
            homes = await open_on_both(client, front, "s")
            pids = [await pid_of(client, names[0]) for names in homes.values()]
            name = next(iter(homes.values()))[0]
            touched, release = tmp_path / "touched", tmp_path / "release"
            direct = asyncio.ensure_future(client.call(slow(name, touched, release)))
            body = {"tool": "slow", "arguments": {"touch": f"{touched}2", "until": str(release)}}
            through = asyncio.ensure_future(front.post("/v1/calls", body))
            await appears(touched)
            await appears(Path(f"{touched}2"))
            front.process.send_signal(signal.SIGTERM)
            while (await front.get("/ready"))[0] == 200:
                await asyncio.sleep(0.02)
            refused = await front.post("/v1/calls", {"tool": "slow"})
            assert refused["error"]["kind"] == ServerBusy.__name__
            release.touch()
            assert (await direct).observation.text.split()[1] == "2"
            assert (await through)["status"] == "ok"
            assert await front.process.wait() == 0
        for pid in pids:
            await vanishes(pid)


async def test_workers_end_with_a_front_that_is_killed(tmp_path: Path) -> None:
    async with fronted(tmp_path, *TWO) as front:
        async with ToolClient(front.url) as client:
            homes = await open_on_both(client, front, "s")
            pids = [await pid_of(client, names[0]) for names in homes.values()]
            front.process.kill()
            await front.process.wait()
        for pid in pids:
            await vanishes(pid)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["coed", "--workers", "2"], "code"),
        (["code", "--workers", "1", "--host", "0.0.0.0"], "token"),
        (["code", "--ray-address", "127.0.0.1:9"], "no Ray cluster"),
    ],
)
async def test_what_cannot_be_served_is_the_users_to_mend(words: list[str], says: str) -> None:
    code, problem = await refusal(*words)
    assert code == 2
    assert says in problem and "Traceback" not in problem


class Fake(Worker):
    """A worker that ends when told to."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.over, self.freed = asyncio.Event(), False

    async def ended(self) -> str:
        await self.over.wait()
        return "told to"

    async def end(self, seconds: float) -> None:
        self.over.set()
        self.freed = True


async def test_a_worker_is_started_until_it_starts_and_every_change_is_told() -> None:
    started: list[Fake] = []
    failures = iter([False, True, True, False])
    told: list[list[str]] = []
    second = asyncio.Event()

    async def start() -> Worker:
        if next(failures):
            raise InfrastructureError("no room")
        started.append(Fake(f"http://{len(started)}"))
        return started[-1]

    async def changed(urls: list[str]) -> None:
        told.append(urls)
        if urls == ["http://1"]:
            second.set()

    fleet = Fleet(start, 1, FrontMetrics(), changed)
    await fleet.begin()
    assert fleet.urls() == ["http://0"]
    started[0].over.set()
    await second.wait()
    assert told == [["http://0"], [], ["http://1"]]
    await fleet.end(0)
    assert all(worker.freed for worker in started) and fleet.urls() == []


async def test_a_worker_that_lives_and_answers_nothing_is_replaced() -> None:
    started: list[Fake] = []
    second = asyncio.Event()
    hangs = asyncio.Event()

    async def health(request: web.Request) -> web.Response:
        if len(started) == 1:
            await hangs.wait()
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/health", health)

    async with listening(app, "127.0.0.1", 0) as url:

        async def start() -> Worker:
            started.append(Fake(url))
            if len(started) == 2:
                second.set()
            return started[-1]

        fleet = Fleet(start, 1, FrontMetrics(), probe_seconds=0.05)
        await fleet.begin()
        await second.wait()
        assert started[0].freed and not started[1].freed
        await fleet.end(0)
        hangs.set()


async def test_a_defect_in_starting_a_worker_is_told() -> None:
    async def start() -> Worker:
        raise RuntimeError("a defect")

    fleet = Fleet(start, 1, FrontMetrics())
    with pytest.raises(RuntimeError, match="a defect"):
        await fleet.begin()
    await fleet.end(0)


async def test_one_that_cannot_start_at_the_beginning_ends_the_others() -> None:
    started: list[Fake] = []

    async def start() -> Worker:
        if started:
            raise ConfigError("no such tool")
        started.append(Fake("http://0"))
        return started[0]

    fleet = Fleet(start, 2, FrontMetrics())
    with pytest.raises(ConfigError, match="no such tool"):
        await fleet.begin()
    await fleet.end(0)
    assert started[0].freed


async def test_without_workers_a_caller_is_asked_to_come_back() -> None:
    async with ToolClient(list, patience=0) as client:
        with pytest.raises(ServerBusy, match="nothing was run"):
            await client.open("s")
        with pytest.raises(ServerBusy):
            await client.call(CallRequest("code"))


def test_pages_are_merged_without_adding_up() -> None:
    one, two = RequestMetrics(), RequestMetrics()
    one.refused("bug")
    two.refused("bug")
    page = merged({"a": one.page(), "b": two.page()}).decode()
    assert page.count("# TYPE agentrl_refused_total counter") == 1
    for worker in "ab":
        assert f'agentrl_refused_total{{kind="bug",worker="{worker}"}} 1.0' in page

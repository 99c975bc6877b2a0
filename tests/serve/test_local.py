"""The host of tools in this process: at most once, in order, within its limits."""

from __future__ import annotations

import asyncio

import pytest
from serve_support import named, naming_itself, until

from agentrl.errors import NotFound, SandboxError, ServerBusy, SessionLost
from agentrl.sandbox import open_sandbox
from agentrl.serve.admission import Admission
from agentrl.serve.host import CallRequest
from agentrl.serve.local import LocalHost, SessionLimits
from agentrl.serve.once import Once
from agentrl.serve.server import make_tools
from agentrl.tool import Tool


class Steps(Tool):
    """Tells what began and what ended; its counter is the session's own."""

    def __init__(self) -> None:
        self.count = 0
        self.began: list[str] = []
        self.ended: list[str] = []
        self.release = asyncio.Event()

    async def call(self, name: str = "", wait: bool = False) -> str:
        """Take a step."""
        self.count += 1
        self.began.append(name)
        try:
            if wait:
                await self.release.wait()
        finally:
            self.ended.append(name)
        return str(self.count)


class Together(Tool):
    """Answers once two of its calls run."""

    parallel = True

    def __init__(self) -> None:
        self.both = asyncio.Barrier(2)

    async def call(self) -> str:
        """Meet another call."""
        await self.both.wait()
        return "met"


def step(name: str, session: str = "s", wait: bool = False, seconds: float | None = None) -> CallRequest:
    return CallRequest("steps", {"name": name, "wait": wait}, session, name, seconds)


@pytest.mark.parametrize("session", ["s", ""])
async def test_repeats_of_a_call_run_it_once(session: str) -> None:
    tool = Steps()
    async with LocalHost([tool]) as host:
        await host.open("s")
        calls = [asyncio.ensure_future(host.call(step("a", session, wait=True))) for _ in range(20)]
        await until(lambda: tool.began)
        tool.release.set()
        answers = [*await asyncio.gather(*calls), await host.call(step("a", session))]
        assert tool.began == ["a"]
        assert {answer.observation.text for answer in answers} == {"1"}
        assert [answer.replayed for answer in answers].count(False) == 1


async def test_calls_of_no_session_are_remembered_in_greater_number() -> None:
    tool = Steps()
    async with LocalHost([tool], limits=SessionLimits(answers=2, loose_answers=200)) as host:
        for i in range(200):
            await host.call(step(f"c{i}", ""))
        assert (await host.call(step("c0", ""))).replayed and len(tool.began) == 200


async def test_answers_are_forgotten_in_their_order_and_what_runs_never() -> None:
    ran: list[str] = []
    release = asyncio.Event()
    once: Once[str] = Once(2, 0)

    async def perform(name: str) -> str:
        ran.append(name)
        if name == "long":
            await release.wait()
        return name

    long = asyncio.ensure_future(once.do("long", lambda: perform("long")))
    await until(lambda: ran)
    for name in ["a", "b", "c", "b", "c", "a"]:
        assert await once.do(name, lambda name=name: perform(name)) == name  # type: ignore[misc]
    again = asyncio.ensure_future(once.do("long", lambda: perform("long")))
    await asyncio.sleep(0)
    release.set()
    assert await long == await again == "long"
    assert ran == ["long", "a", "b", "c", "a"]


async def test_a_call_that_found_no_place_may_be_made_again() -> None:
    tool, admission = Steps(), Admission(most=1, queue=0, memory=lambda: 1e6)
    async with LocalHost([tool], admission=admission) as host:
        await host.open("s")
        async with admission.place():
            with pytest.raises(ServerBusy) as busy:
                await host.call(step("a"))
        assert busy.value.queue_full and tool.began == []
        answer = await host.call(step("a"))
        assert answer.observation.text == "1" and not answer.replayed


async def test_a_call_waits_for_a_place_no_longer_than_for_its_answer() -> None:
    tool, admission = Steps(), Admission(most=1, queue_seconds=600, memory=lambda: 1e6)
    async with LocalHost([tool], admission=admission) as host, admission.place():
        with pytest.raises(ServerBusy, match=r"0\.05 s"):
            await host.call(step("a", "", seconds=0.05))
        assert tool.began == [] and admission.waiting == 0


async def test_calls_of_a_session_run_in_their_order_and_sessions_beside_each_other() -> None:
    tool = Steps()
    async with LocalHost([tool]) as host:
        await host.open("s")
        await host.open("t")
        calls = [asyncio.ensure_future(host.call(step(name, wait=name == "a"))) for name in "abcd"]
        await until(lambda: tool.began)
        assert (await host.call(step("other", "t"))).observation.text == "1"
        assert tool.began == ["a", "other"]
        tool.release.set()
        answers = await asyncio.gather(*calls)
        assert [answer.observation.text for answer in answers] == ["1", "2", "3", "4"]
        assert tool.ended == ["other", "a", "b", "c", "d"]


async def test_parallel_tools_overlap_within_a_session() -> None:
    async with LocalHost([Together()]) as host:
        await host.open("s")
        answers = await asyncio.gather(*(host.call(CallRequest("together", {}, "s")) for _ in range(2)))
        assert [answer.observation.text for answer in answers] == ["met", "met"]


async def test_a_session_ends_when_its_time_is_over_but_not_under_a_call() -> None:
    now = 0.0
    tool, limits = Steps(), SessionLimits(idle_seconds=10, total_seconds=25)
    async with LocalHost([tool], limits=limits, clock=lambda: now) as host:
        for name in ("idle", "total", "busy"):
            await host.open(name)
        now = 9.0
        await host.call(step("a", "total"))
        busy = asyncio.ensure_future(host.call(step("b", "busy", wait=True)))
        await until(lambda: "b" in tool.began)
        assert await host.sweep() == 0
        now = 10.0
        assert await host.sweep() == 1
        with pytest.raises(SessionLost, match="idle for 10 s"):
            await host.call(step("c", "idle"))
        now = 18.0
        await host.call(step("d", "total"))
        now = 26.0
        assert await host.sweep() == 1
        with pytest.raises(SessionLost, match="its 25 s were over"):
            await host.call(step("e", "total"))
        assert host.sessions == 1
        tool.release.set()
        assert (await busy).observation.text == "1"
        assert await host.sweep() == 1 and host.sessions == 0


async def test_there_are_so_many_sessions_and_no_more() -> None:
    async with LocalHost([Steps()], limits=SessionLimits(most=2)) as host:
        for name in ("a", "b", "a"):
            await host.open(name)
        with pytest.raises(ServerBusy, match="2 sessions") as busy:
            await host.open("c")
        assert busy.value.queue_full
        await host.end("a")
        await host.open("c")
        assert host.sessions == 2


async def test_a_session_that_is_gone_never_comes_back_empty() -> None:
    tool = Steps()
    async with LocalHost([tool]) as host:
        with pytest.raises(SessionLost, match="never opened"):
            await host.call(step("a"))
        await host.open("s")
        call = asyncio.ensure_future(host.call(step("a", wait=True)))
        await until(lambda: tool.began)
        await host.end("s")
        with pytest.raises(SessionLost, match="ended by its caller"):
            await call
        for _ in range(2):
            with pytest.raises(SessionLost, match="ended by its caller"):
                await host.call(step("a"))
            with pytest.raises(SessionLost, match="ended by its caller"):
                await host.open("s")
        assert tool.began == tool.ended == ["a"]


async def test_a_session_has_the_tools_it_asked_for() -> None:
    async with LocalHost([Steps(), Together()]) as host:
        await host.open("s", tools=["together"])
        assert (await host.call(step("a"))).status == "unknown"
        with pytest.raises(NotFound, match="steps"):
            await host.open("t", tools=["step"])
        assert host.sessions == 1


@pytest.mark.parametrize("session", ["s", ""])
async def test_a_caller_that_comes_back_in_time_finds_its_call(session: str) -> None:
    tool = Steps()
    async with LocalHost([tool], limits=SessionLimits(grace_seconds=600)) as host:
        await host.open("s")
        gone = asyncio.ensure_future(host.call(step("a", session, wait=True)))
        await until(lambda: tool.began)
        gone.cancel()
        await asyncio.wait({gone})
        back = asyncio.ensure_future(host.call(step("a", session)))
        await asyncio.sleep(0)
        tool.release.set()
        answer = await back
        assert answer.replayed and answer.observation.text == "1" and tool.began == ["a"]


@pytest.mark.parametrize("session", ["s", ""])
async def test_a_caller_that_stays_away_has_its_call_stopped(session: str) -> None:
    tool = Steps()
    async with LocalHost([tool], limits=SessionLimits(grace_seconds=0.01)) as host:
        await host.open("s")
        gone = asyncio.ensure_future(host.call(step("a", session, wait=True)))
        await until(lambda: tool.began)
        gone.cancel()
        await until(lambda: tool.ended and not host.admission.running)
        with pytest.raises(SandboxError, match="nobody waited"):
            await host.call(step("a", session))
        assert tool.began == ["a"]


async def test_a_call_without_an_id_is_stopped_with_its_caller() -> None:
    tool = Steps()
    async with LocalHost([tool], limits=SessionLimits(grace_seconds=600)) as host:
        gone = asyncio.ensure_future(host.call(CallRequest("steps", {"wait": True})))
        await until(lambda: tool.began)
        gone.cancel()
        await until(lambda: tool.ended and not host.admission.running)


@pytest.mark.parametrize("call_id", ["a", ""])
async def test_draining_waits_for_what_runs_and_takes_nothing_new(call_id: str) -> None:
    tool = Steps()
    async with LocalHost([tool]) as host:
        await host.open("s")
        running = asyncio.ensure_future(host.call(CallRequest("steps", {"wait": True}, "s", call_id)))
        await until(lambda: tool.began)
        drained = asyncio.ensure_future(host.drain(600))
        await until(lambda: host.draining)
        for refused in (host.call(step("b")), host.call(step("c", "")), host.open("t")):
            with pytest.raises(ServerBusy, match="ending"):
                await refused
        assert not drained.done()
        tool.release.set()
        await drained
        assert (await running).observation.text == "1"


async def test_a_deadline_stops_the_program_itself() -> None:
    async with LocalHost(make_tools(["code{seconds: 600}"]), open_sandbox()) as host:
        await host.call(CallRequest("code", {"code": ""}))
        call = asyncio.ensure_future(
            host.call(CallRequest("code", {"code": naming_itself("deadline")}, seconds=4))
        )
        await until(lambda: named("deadline") or call.done())
        assert not call.done()
        assert (await call).status == "timeout"
        await until(lambda: not named("deadline"))

"""Tools in this process, offered to many callers: sessions, at-most-once calls, admission."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from agentrl.chat.types import ParsedCall
from agentrl.config import Rollout
from agentrl.errors import NotFound, SandboxError, ServerBusy, SessionLost
from agentrl.registry import nearest
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.rollout.toolbox import ToolBox, ToolLedger
from agentrl.serve.admission import Admission
from agentrl.serve.host import CallAnswer, CallRequest, ToolHost
from agentrl.serve.metrics import Metrics
from agentrl.serve.once import Once
from agentrl.task import Task
from agentrl.tool import BlockingCalls, Tool, ToolContext

if TYPE_CHECKING:
    from agentrl.sandbox import Sandbox

logger = logging.getLogger(__name__)
CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How many sessions there may be, and for how long.

    Args:
        most: open sessions; another one is refused.
        idle_seconds: after so long without a call a session is ended.
        total_seconds: after so long it is ended in any case, once no call runs.
        answers: answers of each session that are kept for repeated requests.
        loose_answers: answers kept of all calls that belong to no session.
        remembered: names of ended sessions that are remembered, to tell their callers so.
        grace_seconds: how long the work of a call goes on after its last caller went away, for a retry to
            find.
    """

    most: int = 1024
    idle_seconds: float = 900.0
    total_seconds: float = 7200.0
    answers: int = 64
    loose_answers: int = 4096
    remembered: int = 10_000
    grace_seconds: float = 2.0

    def over(self, began: float, used: float, now: float) -> str | None:
        """Why a session that no call uses is to end now; ``None`` if it is not."""
        if now - used >= self.idle_seconds:
            return f"it was idle for {self.idle_seconds:g} s"
        if now - began >= self.total_seconds:
            return f"its {self.total_seconds:g} s were over"
        return None


@dataclass(slots=True)
class _Served:
    """One session."""

    name: str
    box: ToolBox
    sandboxes: EpisodeSessions
    began: float
    used: float
    names: frozenset[str]
    once: Once[CallAnswer]
    opening: asyncio.Task[None] | None = None
    order: asyncio.Lock = field(default_factory=asyncio.Lock)
    running: int = 0


class LocalHost(ToolHost):
    """Answers calls with tools of this process.

    Args:
        tools: the tools on offer; every session gets instances of its own.
        sandbox: where they run code; ``None`` if there is none. Closed with the host.
        limits: of sessions.
        admission: who may run when.
        metrics: counts what happens.
        call_seconds: the longest a tool may take that names no time of its own.
        keep_characters: the longest text kept of an observation.
        clock: seconds from any start.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        sandbox: Sandbox | None = None,
        *,
        limits: SessionLimits | None = None,
        admission: Admission | None = None,
        metrics: Metrics | None = None,
        call_seconds: float = 60.0,
        keep_characters: int = 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._sandbox, self._limits, self._clock = sandbox, limits or SessionLimits(), clock
        self.admission = admission or Admission()
        self.metrics = metrics or Metrics()
        self._rollout = Rollout(tool_seconds=call_seconds)
        self._keep = keep_characters
        self._ledger, self._blocking = ToolLedger(), BlockingCalls()
        self._sessions: dict[str, _Served] = {}
        self._gone: OrderedDict[str, str] = OrderedDict()
        self._loose: Once[CallAnswer] = Once(self._limits.loose_answers, self._limits.grace_seconds)
        self._background: set[asyncio.Task[Any]] = set()
        self.draining = False
        self.metrics.watch(self)

    # ---- what is there

    async def schemas(self) -> list[dict[str, Any]]:
        return [tool.schema for tool in self._tools.values()]

    @property
    def sandbox(self) -> Sandbox | None:
        """Where the tools run code."""
        return self._sandbox

    @property
    def sessions(self) -> int:
        """Sessions that are open."""
        return len(self._sessions)

    # ---- sessions

    async def open(self, session: str, *, task: Task | None = None, tools: Sequence[str] = ()) -> None:
        self.check_ready()
        if session in self._sessions:
            self._sessions[session].used = self._clock()
            return
        self._not_gone(session)
        unknown = [name for name in tools if name not in self._tools]
        if unknown:
            raise NotFound(f"There is no tool {unknown[0]!r} here. {nearest(unknown[0], list(self._tools))}")
        if len(self._sessions) >= self._limits.most:
            raise ServerBusy(
                f"{len(self._sessions)} sessions are open, which is all there may be. End some, or wait.",
                self.admission.retry_after(),
                queue_full=True,
            )
        self._sessions[session] = self._make(session, task, tools)

    def _make(self, name: str, task: Task | None, tools: Sequence[str]) -> _Served:
        chosen = [tool for tool in self._tools.values() if not tools or tool.name in tools]
        sandboxes = EpisodeSessions(self._sandbox)
        context = ToolContext(task or Task(""), name, sandboxes.open, sandboxes.run, self._blocking)
        box = ToolBox([tool.spawn(context) for tool in chosen], self._rollout, self._ledger, self._keep)
        now = self._clock()
        once: Once[CallAnswer] = Once(self._limits.answers, self._limits.grace_seconds)
        return _Served(name, box, sandboxes, now, now, frozenset(tool.name for tool in chosen), once)

    async def end(self, session: str) -> None:
        await self._end(session, "it was ended by its caller")

    async def _end(self, name: str, why: str) -> None:
        served = self._sessions.pop(name, None)
        if served is None:
            return
        self._gone[name] = why
        while len(self._gone) > self._limits.remembered:
            self._gone.popitem(last=False)
        await served.once.stop(CLOSE_SECONDS)
        await self._release(served)

    async def _release(self, served: _Served) -> None:
        await served.box.close(CLOSE_SECONDS)
        await served.sandboxes.close(CLOSE_SECONDS)

    async def sweep(self) -> int:
        """End the sessions whose time is over; how many those were. To be called now and then."""
        now, ends = self._clock(), []
        for served in self._sessions.values():
            if not served.running and (why := self._limits.over(served.began, served.used, now)):
                ends.append((served.name, why))
        await asyncio.gather(*(self._end(name, why) for name, why in ends))
        return len(ends)

    # ---- calls

    async def call(self, request: CallRequest) -> CallAnswer:
        self.check_ready()
        if not request.session:
            return await self._once(self._loose, request, lambda: self._loose_call(request))
        served = self._sessions.get(request.session)
        if served is None:
            self._not_gone(request.session)
            raise SessionLost(f"Session {request.session!r} was never opened here.")
        return await self._once(served.once, request, lambda: self._session_call(served, request))

    async def _once(
        self,
        once: Once[CallAnswer],
        request: CallRequest,
        perform: Callable[[], Coroutine[Any, Any, CallAnswer]],
    ) -> CallAnswer:
        """Do the work, or wait for the one that was begun for the same id."""
        repeated = request.id in once
        try:
            answer = await once.do(request.id, perform)
        except SandboxError:
            self._not_gone(request.session)  # what it was stopped by
            raise
        return replace(answer, replayed=True) if repeated else answer

    async def _session_call(self, served: _Served, request: CallRequest) -> CallAnswer:
        served.running += 1
        try:
            tool = self._tools.get(request.tool)
            if tool is not None and tool.parallel:
                return await self._perform(served, request)
            async with served.order:
                return await self._perform(served, request)
        except SessionLost as problem:
            self._in_background(self._end(served.name, str(problem)))
            raise
        finally:
            served.running -= 1
            served.used = self._clock()

    async def _loose_call(self, request: CallRequest) -> CallAnswer:
        served = self._make("", None, [request.tool] if request.tool in self._tools else [])
        try:
            return await self._perform(served, request)
        finally:
            await self._release(served)

    async def _perform(self, served: _Served, request: CallRequest) -> CallAnswer:
        waited = self._clock()
        async with self.admission.place(request.seconds):
            started = self._clock()
            if served.opening is None and request.tool in served.names:
                served.opening = asyncio.ensure_future(served.box.open())
            if served.opening is not None:
                await asyncio.shield(served.opening)
            parsed = ParsedCall(request.tool, dict(request.arguments), "", None, request.id)
            deadline = started + (math.inf if request.seconds is None else request.seconds)
            [call] = await served.box.answer(
                [parsed], elapsed=self._clock, left=lambda: deadline - self._clock()
            )
        answer = CallAnswer(call.status, call.observation, call.seconds)  # type: ignore[arg-type]
        self.metrics.answered(request.tool, call.status, call.seconds, started - waited)
        facts = {
            "session": request.session,
            "call": request.id,
            "tool": request.tool,
            "status": call.status,
            "seconds": round(call.seconds, 6),
            "queue_seconds": round(started - waited, 6),
        }
        logger.info("call", extra={"facts": facts})
        return answer

    # ---- the end

    def check_ready(self) -> None:
        if self.draining:
            raise ServerBusy("The server is ending and takes no more calls; nothing was run.", 5.0)

    def _not_gone(self, session: str) -> None:
        if session in self._gone:
            raise SessionLost(f"Session {session!r} is gone, with what it held: {self._gone[session]}.")

    async def drain(self, seconds: float) -> None:
        """Take nothing new, and wait for what runs, at most so long."""
        self.draining = True
        onces = [self._loose, *(served.once for served in self._sessions.values())]
        tasks = [task for once in onces for task in once.running]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def close(self) -> None:
        self.draining = True
        await self._loose.stop(CLOSE_SECONDS)
        await asyncio.gather(*(self._end(name, "the server has ended") for name in list(self._sessions)))
        if self._background:
            await asyncio.wait(self._background, timeout=CLOSE_SECONDS)
        if self._sandbox is not None:
            await self._sandbox.close()

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

"""What breaks: whose fault it is, what becomes of the episode, and that nothing stays open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from rollout_support import TASK, Lines, make_chat, make_limits, make_runner, sampled, write_call

from agentrl import Env, Observation, Task, Tool, ToolError, reward, tool
from agentrl.errors import (
    DefinitionError,
    EngineError,
    InfrastructureError,
    SandboxError,
    SandboxUnavailable,
    SessionLost,
    UsageError,
    UserCodeError,
)
from agentrl.events import EpisodeFinished, EpisodeVoided
from agentrl.rollout import EpisodeRunner
from agentrl.rollout.policy import Generation, Sampling


class Ledger:
    """Counts what is open."""

    def __init__(self) -> None:
        self.opened = self.closed = 0

    @property
    def open(self) -> int:
        return self.opened - self.closed


class Work(Env):
    """An environment with one tool, ``step``, that does what the test says; counts what is open."""

    def __init__(self, step: Any = None, ledger: Ledger | None = None, **rest: Any) -> None:
        super().__init__(**rest)
        self.work, self.ledger = step, ledger or Ledger()
        ledger_ = self.ledger

        class Held(Tool):
            """Held."""

            async def open(self) -> None:
                ledger_.opened += 1

            async def close(self) -> None:
                await asyncio.sleep(0.01)
                ledger_.closed += 1

            async def call(self) -> str:
                """Hold."""
                return "held"

        self.tools = [*self.tools, Held]

    async def reset(self, task: Task) -> None:
        self.ledger.opened += 1

    async def close(self) -> None:
        await asyncio.sleep(0.01)
        self.ledger.closed += 1

    @tool
    async def step(self) -> Any:
        """Do it."""
        return await self.work()

    @tool(parallel=True)
    async def beside(self, seconds: float = 0) -> str:
        """Work beside others."""
        await asyncio.sleep(seconds)
        return "ok" if seconds else await self.work()

    @reward
    def one(self, episode: Any) -> float:
        return 1.0


class Failing(Lines):
    """An engine that fails its first generations."""

    def __init__(self, failures: int, *lines: str, problem: Exception | None = None) -> None:
        super().__init__(*lines)
        self.failures, self.names = failures, []
        self.problem = problem or EngineError("the engine went away")

    async def generate(self, prompt_ids: Any, sampling: Sampling, *, episode: str, **rest: Any) -> Generation:
        self.names.append(episode)
        if len(self.names) <= self.failures:
            raise self.problem
        return await super().generate(prompt_ids, sampling, episode=episode, **rest)


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
async def test_an_engines_failure_is_retried_from_a_fresh_environment_and_then_void(failures: int) -> None:
    env = Work()
    policy = Failing(failures, "done")
    runner, recorder = make_runner(env, policy, retries=2)
    episode = await runner.run(TASK, episode_id="e", group="g", step=3)
    void = failures > 2
    assert episode.status == ("void" if void else "finished")
    assert episode.attempts == min(failures, 2) + 1
    assert policy.names == [*["e", "e~2", "e~3"][: episode.attempts]]
    assert env.ledger.opened == 2 * episode.attempts and env.ledger.open == 0
    events = recorder.of(EpisodeVoided)
    assert [(event.attempt, event.final) for event in events] == [(n, n == 3) for n in range(1, failures + 1)]
    assert len(recorder.of(EpisodeFinished)) == (0 if void else 1)
    if void:
        assert (episode.reward, episode.samples(), episode.rewards) == (None, [], {})
        assert "the engine went away" in episode.reason and "EngineError" in episode.reason


async def test_waits_between_attempts_double(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    monkeypatch.setattr("agentrl.rollout.episode.asyncio.sleep", sleep)
    runner, _ = make_runner(Env(tasks=[TASK]), Failing(9), retries=3, retry_seconds=0.5)
    await runner.run(TASK, episode_id="e")
    assert [wait for wait in waits if wait] == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("where", ["reset", "open", "call", "reply", "reward"])
async def test_infrastructure_anywhere_voids_and_leaves_no_reward(where: str) -> None:
    async def fail() -> None:
        raise SandboxError("no more room")

    class Broken(Work):
        async def reset(self, task: Task) -> None:
            await super().reset(task)
            if where == "reset":
                await fail()

        async def reply(self, text: str) -> str | None:
            return await fail() if where == "reply" else None

        @reward(per="turn")
        async def first(self, episode: Any, turn: Any) -> float:
            return 0.5

        @reward
        async def last(self, episode: Any) -> float:
            if where == "reward":
                await fail()
            return 1.0

    class Unopened(Tool):
        """Never opens."""

        async def open(self) -> None:
            await fail()

        async def call(self) -> str:
            """Call."""
            return ""

    env = Broken(fail)
    if where == "open":
        env.tools = [*env.tools, Unopened]
    runner, _ = make_runner(env, Lines(write_call("step") if where == "call" else "done"), retries=1)
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.status, episode.attempts, episode.reward) == ("void", 2, None)
    assert (episode.rewards, episode.turn_reward, episode.episode_reward) == ({}, {}, 0.0)
    assert all(not turn.rewards for turn in episode.turns) and episode.samples() == []
    assert env.ledger.open == 0


@pytest.mark.parametrize("where", ["reset", "open", "reply", "reward", "messages", "value"])
async def test_a_users_bug_stops_the_run_and_is_named(where: str) -> None:
    class Buggy(Work):
        async def reset(self, task: Task) -> None:
            await super().reset(task)
            if where == "reset":
                raise KeyError("oops")

        def messages(self, task: Task) -> list[dict[str, Any]]:
            if where == "messages":
                raise KeyError("oops")
            return super().messages(task)

        async def reply(self, text: str) -> str | None:
            if where == "reply":
                raise ToolError("oops")
            return None

        @reward
        def last(self, episode: Any) -> float:
            if where == "reward":
                raise KeyError("oops")
            return 0.0

    class Unopened(Tool):
        """Never opens."""

        async def open(self) -> None:
            raise KeyError("oops")

        async def call(self) -> str:
            """Call."""
            return ""

    async def value() -> object:
        return object()

    env = Buggy(value)
    if where == "open":
        env.tools = [*env.tools, Unopened]
    runner, _ = make_runner(env, Lines(write_call("step") if where == "value" else "done"))
    with pytest.raises(UsageError) as caught:
        await runner.run(TASK, episode_id="e")
    expected = {
        "open": "unopened",
        "reward": "last",
        "value": "object",
        **dict.fromkeys(("reset", "reply"), where),
    }
    assert expected.get(where, where) in str(caught.value)
    if where != "value":
        assert isinstance(caught.value, UserCodeError) and "oops" in str(caught.value)
        assert caught.value.__cause__ is not None
    assert "task task-1" in caught.value.__notes__[0]
    assert env.ledger.open == 0


async def test_a_tool_that_takes_too_long_is_cancelled_and_the_model_is_told() -> None:
    cancelled = []

    async def hang() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    runner, _ = make_runner(Work(hang), Lines(write_call("step"), "done"), tool_seconds=0.05)
    episode = await runner.run(TASK, episode_id="e")
    (call,) = episode.calls
    assert (call.status, episode.status, cancelled) == ("timeout", "finished", [1])
    assert "longer than 0.05 s" in call.observation.text


async def test_a_tool_that_ignores_its_cancellation_holds_nobody_up() -> None:
    async def stubborn() -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(2)
            except asyncio.CancelledError:
                continue

    runner, _ = make_runner(Work(stubborn), Lines(write_call("step"), "done"), tool_seconds=0.02)
    episode = await asyncio.wait_for(runner.run(TASK, episode_id="e"), 20)
    assert (episode.calls[0].status, episode.status) == ("timeout", "finished")


async def test_a_tools_own_seconds_go_before_the_rollouts() -> None:
    class Slow(Env):
        @tool(seconds=0.02)
        def slow(self) -> str:
            """Be slow."""
            time.sleep(0.3)
            return "late"

    runner, _ = make_runner(Slow(), Lines(write_call("slow"), "done"))
    episode = await runner.run(TASK, episode_id="e")
    assert "longer than 0.02 s" in episode.calls[0].observation.text


async def test_a_tools_own_timeout_error_is_the_tools_error() -> None:
    async def times_out() -> None:
        raise TimeoutError("upstream")

    runner, _ = make_runner(Work(times_out), Lines(write_call("step"), "done"))
    episode = await runner.run(TASK, episode_id="e")
    assert episode.calls[0].status == "raised" and "upstream" in episode.calls[0].observation.text


async def test_the_episodes_seconds_spent_in_tools_truncate_it() -> None:
    async def hang() -> None:
        await asyncio.sleep(100)

    runner, _ = make_runner(Work(hang), Lines("\n".join([write_call("step")] * 2)), episode_seconds=1.5)
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.status, episode.reward, episode.attempts) == ("truncated", 1.0, 1)
    assert "episode_seconds=1.5" in episode.reason
    assert [call.status for call in episode.calls] == ["timeout", "timeout"]
    assert all("time for this task is over" in call.observation.text for call in episode.calls)


@pytest.mark.parametrize("hangs", ["engine", "reset", "reply", "reward"])
async def test_the_episodes_seconds_spent_elsewhere_void_it(hangs: str) -> None:
    class Slow(Work):
        async def reset(self, task: Task) -> None:
            await super().reset(task)
            await asyncio.sleep(100 if hangs == "reset" else 0)

        async def reply(self, text: str) -> str | None:
            await asyncio.sleep(100 if hangs == "reply" else 0)
            return None

        @reward
        async def last(self, episode: Any) -> float:
            await asyncio.sleep(100 if hangs == "reward" else 0)
            return 1.0

    env = Slow()
    policy = Lines("done", seconds=100 if hangs == "engine" else 0)
    runner, recorder = make_runner(env, policy, episode_seconds=0.1, retries=1)
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.status, episode.reward, episode.attempts) == ("void", None, 2)
    assert episode.reason.startswith("EpisodeTimeout") and "episode_seconds=0.1" in episode.reason
    assert len(recorder.of(EpisodeVoided)) == 2 and env.ledger.open == 0


async def test_an_engine_that_does_not_answer_is_an_engine_error() -> None:
    runner, _ = make_runner(Env(tasks=[TASK]), Lines("a", seconds=100), response_seconds=0.05, retries=0)
    episode = await runner.run(TASK, episode_id="e")
    assert episode.status == "void" and "rollout.response_seconds" in episode.reason


async def test_an_engine_that_gives_too_much_is_an_engine_error() -> None:
    class Generous(Lines):
        async def generate(self, prompt_ids: Any, sampling: Sampling, **rest: Any) -> Generation:
            return Generation([5] * 21, [0.0] * 21, [0] * 21)

    runner, _ = make_runner(Env(tasks=[TASK]), Generous("a"), max_turn_tokens=20, retries=0)
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.status, episode.sampled_tokens) == ("void", 0)


async def test_unexpected_exceptions_of_tools_can_stop_the_run() -> None:
    async def crash() -> int:
        return 1 // 0

    env = Work(crash)
    line = "\n".join([write_call("beside", seconds=50), write_call("beside")])
    runner, _ = make_runner(env, Lines(line), tool_exceptions="stop")
    with pytest.raises(UserCodeError, match=r"beside raised ZeroDivisionError.*tool_exceptions=show"):
        await asyncio.wait_for(runner.run(TASK, episode_id="e"), 5)
    assert env.ledger.open == 0


async def test_a_tool_that_never_worked_stops_the_run() -> None:
    async def crash() -> int:
        return 1 // 0

    runner, _ = make_runner(Work(crash), Lines("\n".join([write_call("step")] * 10), "done"))
    assert (await runner.run(TASK, episode_id="a")).status == "finished"
    with pytest.raises(
        UserCodeError, match=r"step raised on every one of its first 20 calls, last: ZeroDivision"
    ):
        await runner.run(TASK, episode_id="b")


async def test_a_tool_that_worked_once_may_raise_for_ever() -> None:
    results = iter([RuntimeError("first"), None])

    async def sometimes() -> str:
        if (problem := next(results, RuntimeError("again"))) is not None:
            raise problem
        return "ok"

    runner, _ = make_runner(Work(sometimes), Lines("\n".join([write_call("step")] * 25), "done"))
    episode = await runner.run(TASK, episode_id="a")
    assert [call.status for call in episode.calls] == ["raised", "ok", *["raised"] * 23]


@pytest.mark.parametrize("stage", ["reset", "generate", "call", "reward"])
async def test_cancelling_an_episode_closes_everything(stage: str) -> None:
    reached = asyncio.Event()

    async def wait_here(here: str) -> None:
        if here == stage:
            reached.set()
            await asyncio.sleep(100)

    class Waiting(Work):
        async def reset(self, task: Task) -> None:
            await super().reset(task)
            await wait_here("reset")

        @reward
        async def last(self, episode: Any) -> float:
            await wait_here("reward")
            return 1.0

    class Slow(Lines):
        async def generate(self, *args: Any, **rest: Any) -> Generation:
            await wait_here("generate")
            return await super().generate(*args, **rest)

    env = Waiting(lambda: wait_here("call"))
    runner, _ = make_runner(env, Slow(write_call("step"), "done"))
    task = asyncio.ensure_future(runner.run(TASK, episode_id="e"))
    await asyncio.wait_for(reached.wait(), 5)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # a second one does not cut the cleaning up short
    with pytest.raises(asyncio.CancelledError):
        await task
    assert env.ledger.opened > 0 and env.ledger.open == 0
    assert len(asyncio.all_tasks()) == 1


async def test_what_goes_wrong_in_closing_is_logged_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Sticky(Work):
        async def close(self) -> None:
            await super().close()
            raise OSError("stuck")

    env = Sticky()
    runner, _ = make_runner(env, Lines("done"))
    assert (await runner.run(TASK, episode_id="e")).reward == 1.0
    assert env.ledger.open == 0 and "closing environment sticky failed: OSError: stuck" in caplog.text


class FakeSandbox:
    """Hands out sessions that count themselves; real backends have tests of their own."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.made: list[tuple[Any, tuple[str, ...]]] = []
        self.open, self.problem = 0, problem

    async def create(self, limits: Any, *, preload: Sequence[str] = ()) -> Any:
        await asyncio.sleep(0.01)
        if self.problem is not None:
            raise self.problem
        self.made.append((limits, tuple(preload)))
        self.open += 1
        return self

    async def close(self) -> None:
        self.open -= 1


class Boxed(Tool):
    """Runs in a session."""

    limits: dict[str, Any] = {"memory_mb": 64}
    parallel = True

    async def call(self) -> str:
        """Open the session."""
        return str(id(await self.context.sandbox(**self.limits)))


async def test_tools_share_an_episodes_sessions_by_their_limits() -> None:
    class Other(Boxed):
        """Runs in another."""

        limits = {"memory_mb": 65, "preload": ("json",)}

    sandbox = FakeSandbox()
    line = "\n".join(write_call(name) for name in ("boxed", "boxed", "other", "boxed"))
    runner, _ = make_runner(Env(tools=[Boxed, Other]), Lines(line, line, "done"), sandbox=sandbox)
    episode = await runner.run(TASK, episode_id="e")
    assert [(limits.memory_mb, preload) for limits, preload in sandbox.made] == [(64, ()), (65, ("json",))]
    assert {call.status for call in episode.calls} == {"ok"} and sandbox.open == 0


@pytest.mark.parametrize("problem", [SandboxUnavailable, DefinitionError])
async def test_a_sandbox_that_cannot_be_had_stops_the_run(problem: type[Exception]) -> None:
    class Wrong(Boxed):
        """Asks for what is not there."""

        limits = {"memory": 5}

    sandbox = FakeSandbox() if problem is DefinitionError else None
    runner, _ = make_runner(Env(tools=[Wrong]), Lines(write_call("wrong")), sandbox=sandbox)
    with pytest.raises(problem, match="sandbox"):
        await runner.run(TASK, episode_id="e")


async def test_a_sandbox_that_fails_voids() -> None:
    sandbox = FakeSandbox(SandboxError("no room"))
    runner, _ = make_runner(Env(tools=[Boxed]), Lines(write_call("boxed")), sandbox=sandbox, retries=1)
    episode = await runner.run(TASK, episode_id="e")
    assert (episode.status, episode.attempts) == ("void", 2) and "no room" in episode.reason


async def test_a_session_lost_by_itself_voids_but_not_one_that_ended_with_a_stopped_call() -> None:
    calls = 0

    async def lost() -> Observation:
        raise SessionLost("gone")

    async def hang_then_lost() -> Observation:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(100)
        raise SessionLost("gone")

    lines = [write_call("step"), write_call("step"), "done"]
    runner, _ = make_runner(Work(lost), Lines(*lines), retries=0)
    assert (await runner.run(TASK, episode_id="e")).status == "void"
    runner, _ = make_runner(Work(hang_then_lost), Lines(*lines), retries=0, tool_seconds=0.05)
    episode = await runner.run(TASK, episode_id="e")
    assert [call.status for call in episode.calls] == ["timeout", "error"] and episode.status == "finished"


async def test_a_usage_error_goes_before_an_infrastructure_error_beside_it() -> None:
    class Both(Env):
        @tool(parallel=True)
        async def one(self) -> str:
            """One."""
            raise InfrastructureError("machine")

        @tool(parallel=True)
        async def two(self) -> str:
            """Two."""
            raise UsageError("bug")

    runner, _ = make_runner(Both(), Lines(write_call("one") + write_call("two")))
    with pytest.raises(UsageError, match="bug"):
        await runner.run(TASK, episode_id="e")


async def test_a_clock_of_ones_own_times_the_episode() -> None:
    now = 100.0

    class Ticking(Lines):
        async def generate(self, *args: Any, **rest: Any) -> Generation:
            nonlocal now
            now += 2.5
            return await super().generate(*args, **rest)

    async def step() -> str:
        nonlocal now
        now += 4
        return "ok"

    runner = EpisodeRunner(
        Work(step),
        make_chat(),
        Ticking(write_call("step"), sampled("done")),
        make_limits(),
        clock=lambda: now,
    )
    episode = await runner.run(TASK, episode_id="e")
    assert [(turn.started, turn.generate_seconds, turn.tool_seconds) for turn in episode.turns] == [
        (0.0, 2.5, 4.0),
        (6.5, 2.5, 0.0),
    ]
    assert (episode.calls[0].started, episode.calls[0].seconds, episode.seconds) == (2.5, 4.0, 9.0)

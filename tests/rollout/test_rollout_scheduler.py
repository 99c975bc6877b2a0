"""Many episodes at once, and waiting with limits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from rollout_support import Lines, make_runner, write_call

from agentrl import Env, Task, Trajectory, UsageError, tool
from agentrl.errors import EngineError
from agentrl.rollout import Job, Progress, run_episodes
from agentrl.rollout.waiting import OutOfTime, StrayExit, all_of, to_the_end, within


class Counted(Env):
    """Counts its episodes at work, and breaks on a task called bad."""

    def __init__(self) -> None:
        super().__init__()
        self.gauge = {"now": 0, "most": 0, "begun": 0}

    async def reset(self, task: Task) -> None:
        self.gauge["now"] += 1
        self.gauge["begun"] += 1
        self.gauge["most"] = max(self.gauge["most"], self.gauge["now"])
        if task.id == "bad":
            raise UsageError("bad task")
        await asyncio.sleep(task.answer or 0)

    async def close(self) -> None:
        await asyncio.sleep(0.01)
        self.gauge["now"] -= 1

    @tool
    def ping(self) -> str:
        """Ping."""
        return "pong"


def job(name: str, wait: float = 0.0) -> Job:
    return Job(Task("Go.", answer=wait, id=name), f"episode-{name}", group="g", seed=1)


async def test_all_jobs_are_played_within_the_bound_and_taken_as_needed() -> None:
    env = Counted()
    taken = []

    def jobs() -> Iterator[Job]:
        for number in range(40):
            taken.append(number)
            assert number <= len(results) + env.gauge["now"] + 5
            yield job(str(number))

    results: list[tuple[Job, Trajectory]] = []
    steps: list[Progress] = []
    runner, _ = make_runner(env, Lines(write_call("ping"), "done"))
    progress = await run_episodes(
        runner,
        jobs(),
        concurrency=5,
        on_result=lambda job, episode: results.append((job, episode)),
        on_progress=steps.append,
    )
    assert progress == Progress(done=40, void=0, running=0) == steps[-1]
    assert max(step.running for step in steps) == 5 >= env.gauge["most"] > 1
    assert {job.task.id for job, _ in results} == {str(number) for number in range(40)}
    assert all(job.episode_id == episode.id and episode.group == "g" for job, episode in results)


async def test_the_first_usage_error_ends_the_rest_and_loses_nothing() -> None:
    env = Counted()
    jobs = [job("a"), job("b"), job("slow", 100), job("bad"), *[job(f"later-{n}", 100) for n in range(20)]]
    results: list[str] = []
    runner, _ = make_runner(env, Lines("done"))
    with pytest.raises(UsageError, match="bad task"):
        await asyncio.wait_for(
            run_episodes(runner, jobs, concurrency=2, on_result=lambda job, _: results.append(job.task.id)),
            10,
        )
    assert results == ["a", "b"]
    assert env.gauge["now"] == 0, "every episode cleaned up before the error was raised"
    assert env.gauge["begun"] == 4, "no further episode was begun"
    assert len(asyncio.all_tasks()) == 1


async def test_void_episodes_are_results_too() -> None:
    class Dead(Lines):
        async def generate(self, *args: Any, **rest: Any) -> Any:
            raise EngineError("dead")

    results: list[Trajectory] = []
    runner, _ = make_runner(Counted(), Dead("a"), retries=0)
    progress = await run_episodes(
        runner, map(job, "abc"), concurrency=9, on_result=lambda _, episode: results.append(episode)
    )
    assert progress == Progress(done=3, void=3) and {episode.status for episode in results} == {"void"}


async def test_cancelling_the_crew_waits_for_its_episodes() -> None:
    env = Counted()
    runner, _ = make_runner(env, Lines("done"))
    crew = asyncio.ensure_future(
        run_episodes(runner, (job(str(n), 100) for n in range(99)), concurrency=7, on_result=lambda *_: None)
    )
    while env.gauge["now"] < 7:
        await asyncio.sleep(0.01)
    crew.cancel()
    with pytest.raises(asyncio.CancelledError):
        await crew
    assert env.gauge["now"] == 0 and len(asyncio.all_tasks()) == 1


async def test_a_callers_exception_ends_the_crew_too() -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("disk full")

    env = Counted()
    runner, _ = make_runner(env, Lines("done"))
    with pytest.raises(RuntimeError, match="disk full"):
        await run_episodes(runner, [job("a"), job("b", 100)], concurrency=2, on_result=broken)
    assert env.gauge["now"] == 0
    with pytest.raises(ValueError, match="concurrency=0"):
        await run_episodes(runner, [], concurrency=0, on_result=broken)


async def test_within_tells_limits_errors_and_exits_apart() -> None:
    async def value() -> int:
        return 3

    async def own_timeout() -> None:
        raise TimeoutError("mine")

    async def leaves() -> None:
        raise SystemExit(2)

    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    assert await within(value(), 1) == 3
    with pytest.raises(OutOfTime):
        await within(asyncio.sleep(100), 0.01)
    with pytest.raises(TimeoutError, match="mine"):
        await within(own_timeout(), 1)
    with pytest.raises(StrayExit, match="SystemExit: 2"):
        await within(leaves(), 1)
    with pytest.raises(StrayExit):
        await within(cancels_itself(), 1)


async def test_to_the_end_finishes_its_work_before_it_is_cancelled() -> None:
    done = []

    async def work() -> None:
        await asyncio.sleep(0.05)
        done.append(1)

    task = asyncio.ensure_future(to_the_end(work()))
    for _ in range(3):
        await asyncio.sleep(0.005)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [1]


async def test_all_of_keeps_order_and_cancels_the_rest_on_an_error() -> None:
    ended = []

    async def work(name: str, seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append(name)
        if name.startswith("bad"):
            raise ValueError(name)
        return name

    def no_rank(_: BaseException) -> int:
        return 0

    assert await all_of([work("a", 0.03), work("b", 0.01)], rank=no_rank) == ["a", "b"]
    with pytest.raises(ValueError, match="bad"):
        await all_of([work("c", 100), work("bad", 0.01)], rank=no_rank)
    assert ended == ["b", "a", "bad", "c"]

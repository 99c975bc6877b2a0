"""Places for episodes by what is measured, the order they begin in, groups that do not wait for their last.

In virtual time: seconds of waiting take none.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest

from agentrl import Env, Task, Trajectory, reward
from agentrl.config import Rollout
from agentrl.errors import EngineError
from agentrl.rollout import (
    Admission,
    EpisodeRunner,
    Generation,
    Job,
    Lengths,
    Load,
    LoadGauge,
    MemoryGauge,
    Progress,
    Stragglers,
    group_jobs,
    longest_first,
    run_episodes,
)
from agentrl.simulate import run
from agentrl.simulate.dialogue import ModelChat, ToolServer, Work, spoken

LIMITS = Rollout(retries=0, episode_seconds=1e6, response_seconds=1e6)


class Answers:
    """Says at once that it is done, except in the episodes named, where the engine fails."""

    def __init__(self, *broken: str) -> None:
        self.broken = broken

    async def generate(self, *_: Any, episode: str, **rest: Any) -> Generation:
        if episode in self.broken:
            raise EngineError("dead")
        return Generation(spoken(None), [-1.0] * 3, [0] * 3)


class Slow(Env):
    """An episode takes the seconds that its task's metadata give for its index in the group."""

    def __init__(self) -> None:
        super().__init__()
        self.running, self.peak = set[str](), [0]
        self.ended: list[str] = []

    async def reset(self, task: Task) -> None:
        name = self.context.episode_id
        self.running.add(name)
        self.peak[0] = max(self.peak[0], len(self.running))
        await asyncio.sleep(task.metadata["seconds"][int(name.rsplit("-", 1)[1])])

    async def close(self) -> None:
        self.running.discard(self.context.episode_id)
        self.ended.append(self.context.episode_id)


def slow(name: str, *seconds: float) -> Task:
    return Task("Go.", id=name, metadata={"seconds": list(seconds)})


def play(
    env: Env, jobs: Any, concurrency: int | Admission = 100, policy: Any = None, **how: Any
) -> tuple[dict[str, Trajectory], Progress, float]:
    """Results by name, the progress, and the virtual seconds that it took."""

    async def main() -> tuple[dict[str, Trajectory], Progress, float]:
        runner = EpisodeRunner(env, ModelChat(), policy or Answers(), LIMITS)
        results: dict[str, Trajectory] = {}

        def keep(job: Job, episode: Trajectory) -> None:
            assert episode.id not in results and job.episode_id == episode.id
            results[episode.id] = episode

        progress = await run_episodes(runner, jobs, concurrency=concurrency, on_result=keep, **how)
        return results, progress, asyncio.get_running_loop().time()

    return run(main())


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def sync() -> None:
        run(test())

    sync.__name__ = test.__name__
    return sync


@in_virtual_time
async def test_places_are_given_in_order_and_a_caller_that_leaves_keeps_none() -> None:
    admission, entered = Admission(2), list[int]()

    async def guest(number: int) -> None:
        async with admission.place():
            entered.append(number)
            await asyncio.sleep(10)

    guests = [asyncio.ensure_future(guest(number)) for number in range(6)]
    await asyncio.sleep(1)
    assert entered == [0, 1] and (admission.running, admission.waiting) == (2, 4)
    guests[2].cancel()
    await asyncio.sleep(10)
    assert entered == [0, 1, 3, 4]
    guests[0].cancel()
    guests[3].cancel()
    await asyncio.gather(*guests, return_exceptions=True)
    assert entered == [0, 1, 3, 4, 5] and (admission.running, admission.waiting) == (0, 0)
    with pytest.raises(ValueError, match="concurrency=0"):
        Admission(0)


@in_virtual_time
async def test_a_gauge_is_looked_at_again_while_it_keeps_somebody_waiting() -> None:
    load = [2.0]
    admission = Admission(8, [LoadGauge("engine", lambda: load[0])], check_seconds=5)
    await admission.enter()
    waiting = asyncio.ensure_future(admission.enter())
    await asyncio.sleep(12)
    assert not waiting.done() and admission.held["engine"] >= 2
    load[0] = 0.1
    await waiting
    assert asyncio.get_running_loop().time() == 15 and admission.running == 2


def test_a_load_tells_how_many_episodes_make_the_wanted_one() -> None:
    load = [0.0]
    gauge = LoadGauge("tools", lambda: load[0], target=0.9, first=4)
    assert gauge.places(0) == 4, "before there is anything to go by"
    load[0] = 0.1
    assert gauge.places(10) == 20, "at most twofold"
    load[0] = 0.6
    assert gauge.places(10) == 15
    load[0] = 3.0
    assert gauge.places(10) == 3
    load[0] = 1e9
    assert gauge.places(10) == 1, "one may always try"


def test_memory_is_counted_by_what_episodes_were_seen_to_take() -> None:
    used, available = [100], [10_000]
    gauge = MemoryGauge(1000, available=lambda: available[0], used=lambda: used[0], least=10)
    assert gauge.places(0) == 900
    used[0], available[0] = 100 + 8 * 500, 6000
    assert gauge.places(8) == 8 + 10
    available[0] = 500
    assert gauge.places(8) == 7, "the reserve is being used: no more, and the next ones later"
    used[0] = 10**9
    assert gauge.places(8) >= 1
    assert MemoryGauge().places(0) > 1, "on this machine"


def test_a_slow_engine_slows_the_start_of_episodes_and_nothing_piles_up() -> None:
    env = Slow()
    load = LoadGauge("engine", lambda: len(env.running) / 5, target=1.0, first=2)
    jobs = [Job(slow(str(n), 10), f"{n}-0") for n in range(50)]
    results, progress, seconds = play(env, jobs, Admission(1000, [load]))
    assert len(results) == progress.done == 50
    assert 5 <= env.peak[0] <= 6, "a place may be given back a moment after its episode has closed"
    assert seconds == pytest.approx(100, rel=0.2)


class Calls:
    """Has every episode call its tool once, for 10 s; a turn takes the engine 1 s."""

    async def generate(self, prompt_ids: Sequence[int], *_: Any, **rest: Any) -> Generation:
        await asyncio.sleep(1)
        return Generation(spoken(10.0 if len(prompt_ids) == 1 else None), [-1.0] * 3, [0] * 3)


async def play_measured(
    places: int | None, **settings: Any
) -> tuple[dict[str, int], list[Trajectory], float]:
    """100 episodes with a tool server of so many places; the most that waited for it and for the engine."""
    server, load = ToolServer(places), Load()
    limits = LIMITS.model_copy(update=settings)
    runner = EpisodeRunner(Work(server), ModelChat(), Calls(), limits, load=load)
    admission, most, episodes = Admission.of(limits, load), {"tools": 0, "engine": 0}, list[Trajectory]()

    async def watch() -> None:
        while True:
            for name, asking in (("tools", load.tools), ("engine", load.engine)):
                most[name] = max(most[name], asking.count)
            await asyncio.sleep(0.5)

    watching = asyncio.ensure_future(watch())
    tasks = itertools.islice(Work(server).tasks("train"), 100)
    jobs = (Job(task, f"{task.id}-0") for task in tasks)
    await run_episodes(
        runner, jobs, concurrency=admission, on_result=lambda job, episode: episodes.append(episode)
    )
    watching.cancel()
    assert (admission.running, admission.waiting, load.tools.count, load.engine.count) == (0, 0, 0, 0)
    return most, episodes, asyncio.get_running_loop().time()


def test_a_slow_tool_server_slows_the_start_of_episodes() -> None:
    freely, episodes, _ = run(play_measured(4))
    assert freely["tools"] == len(episodes) == 100, "concurrency alone lets all of them queue"
    held, episodes, seconds = run(play_measured(4, tool_episodes=6))
    assert len(episodes) == 100 and all(episode.reward == 1.0 for episode in episodes)
    assert held["tools"] <= 9, "those under way reach it, whatever it has become"
    assert seconds == pytest.approx(100 * 10 / 4, rel=0.15), "and the server is kept busy"


def test_an_engine_that_many_wait_for_slows_the_start_of_episodes() -> None:
    held, episodes, _ = run(play_measured(None, engine_episodes=5))
    assert len(episodes) == 100 and held["engine"] <= 10
    freely, _, _ = run(play_measured(None))
    assert freely["engine"] == 100


def test_without_memory_to_spare_one_episode_runs_at_a_time() -> None:
    held, episodes, seconds = run(play_measured(None, free_memory_mb=2**40))
    assert len(episodes) == 100 and held["tools"] == held["engine"] == 1 and seconds >= 1200


@in_virtual_time
async def test_what_failed_or_was_cancelled_waits_for_nothing_any_more() -> None:
    load = Load()
    runner = EpisodeRunner(Slow(), ModelChat(), Answers("t-0"), LIMITS, load=load)
    assert (await runner.run(slow("t", 1), episode_id="t-0")).status == "void"
    stuck = EpisodeRunner(Work(ToolServer(1)), ModelChat(), Calls(), LIMITS, load=load)
    playing = [asyncio.ensure_future(stuck.run(Task("", id="t"), episode_id=f"t-{n}")) for n in range(2)]
    await asyncio.sleep(5)
    assert (load.engine.count, load.tools.count) == (0, 2)
    for task in playing:
        task.cancel()
    await asyncio.wait(playing)
    assert (load.engine.count, load.tools.count) == (0, 0)


def test_a_source_of_jobs_may_make_the_crew_wait() -> None:
    closed = []

    async def source() -> AsyncIterator[Job]:
        try:
            for number in range(3):
                await asyncio.sleep(100)
                yield Job(slow(str(number), 1), f"{number}-0")
        finally:
            closed.append(True)

    results, _, seconds = play(Slow(), source())
    assert len(results) == 3 and seconds == 301 and closed == [True]


def test_the_longest_of_a_window_begin_first_and_groups_stay_together() -> None:
    tasks = [slow(str(seconds), *[seconds] * 2) for seconds in (3, 9, 1, 7)]
    jobs = group_jobs(tasks, 2)
    order = [job.task.id for job in longest_first(jobs, lambda task: float(task.id), window=6)]
    assert order == ["9", "9", "3", "3", "1", "1", "7", "7"]

    def endless() -> Iterator[Task]:
        while True:
            yield tasks[0]

    first = longest_first(group_jobs(endless(), 2), lambda task: 0.0, window=10)
    assert [next(first).group for _ in range(4)] == ["0-3", "0-3", "1-3", "1-3"]
    together = play(Slow(), group_jobs(tasks * 4, 1), 4)[2]
    sorted_ = play(Slow(), longest_first(group_jobs(tasks * 4, 1), lambda task: float(task.id)), 4)[2]
    assert sorted_ < together


def test_lengths_are_learnt_and_forgotten() -> None:
    lengths = Lengths(2, weight=0.5)
    for task, seconds, status in [
        ("a", 10, "finished"),
        ("a", 20, "truncated"),
        ("b", 1, "void"),
        ("b", 3, "finished"),
    ]:
        lengths.add(Trajectory(Task("", id=task), "e", seconds=seconds, status=status))  # type: ignore[arg-type]
    assert lengths(Task("", id="a")) == 15 and lengths(Task("", id="b")) == 3
    assert lengths(Task("", id="new")) == 11
    lengths.add(Trajectory(Task("", id="c"), "e", seconds=5, status="finished"))
    assert lengths(Task("", id="a")) == pytest.approx(9.5), "the one not seen for longest is forgotten"


def test_groups_have_the_size_that_their_task_asks_for() -> None:
    jobs = list(group_jobs([slow("a"), slow("b")], lambda task: {"a": 3, "b": 1}[task.id], over=1))
    assert [(job.task.id, job.group_size, job.enough) for job in jobs] == [("a", 4, 3)] * 4 + [
        ("b", 2, 1)
    ] * 2
    with pytest.raises(ValueError, match="group of 0"):
        list(group_jobs([slow("a")], 0))


def test_enough_of_a_group_ends_it_and_the_others_clean_up() -> None:
    env = Slow()
    results, progress, seconds = play(env, group_jobs([slow("t", 5, 500, 10, 400, 20)], 3, over=2))
    good = [name for name, episode in results.items() if episode.status == "finished"]
    assert good == ["0-t-0", "0-t-2", "0-t-4"] and seconds == 20
    dropped = [episode for episode in results.values() if episode.status == "void"]
    assert len(dropped) == 2 and all(episode.reason.startswith("surplus") for episode in dropped)
    assert progress == Progress(done=3, given_up=2)
    assert len(env.ended) == 5 and not env.running


def test_what_has_not_begun_of_a_complete_group_never_does() -> None:
    env = Slow()
    results, progress, _ = play(env, group_jobs([slow("t", 1, 1, 1, 1), slow("u", 1, 1, 1, 1)], 2, over=2), 2)
    assert len(results) == 8 and progress == Progress(done=4, given_up=4)
    assert len(env.ended) == 4


def test_void_episodes_count_only_where_the_group_cannot_do_without() -> None:
    class Compared(Slow):
        @reward(per="group")
        def rank(self, episodes: list[Trajectory]) -> list[float]:
            assert len(episodes) == 3
            return [float(number) for number in range(3)]

    jobs = group_jobs([slow("t", 1, 2, 3, 4, 50)], 3, over=2)
    results, progress, seconds = play(Compared(), jobs, policy=Answers("0-t-0"))
    assert results["0-t-0"].status == "void" and "dead" in results["0-t-0"].reason
    assert [results[f"0-t-{n}"].reward for n in (1, 2, 3)] == [0.0, 1.0, 2.0]
    assert results["0-t-4"].reason.startswith("surplus") and seconds == 4
    assert progress == Progress(done=4, void=1, given_up=1)

    class Few(Slow):
        @reward(per="group")
        def rank(self, episodes: list[Trajectory]) -> list[float]:
            return [float(len(episodes))] * len(episodes)

    jobs = group_jobs([slow("t", 1, 2, 3)], 2, over=1)
    results, progress, _ = play(Few(), jobs, policy=Answers("0-t-0", "0-t-1"))
    assert results["0-t-2"].reward == 1.0, "judged with those there are"
    assert progress == Progress(done=3, void=2)


def test_stragglers_are_given_up_by_the_median_of_their_group() -> None:
    env = Slow()
    rule = Stragglers(share=0.5, factor=3, least_seconds=5)
    tasks = [slow("t", 10, 12, 14, 900), slow("quick", 0, 0, 0, 4.5)]
    results, progress, seconds = play(env, group_jobs(tasks, 4), stragglers=rule)
    assert results["0-t-3"].status == "void" and results["0-t-3"].reason.startswith("straggler")
    assert seconds == pytest.approx(36) and not env.running
    assert results["1-quick-3"].status == "finished", "there is a least time"
    assert progress == Progress(done=8, void=1)


def test_an_admission_can_be_used_again_after_a_run_that_failed() -> None:
    class Bad(Slow):
        async def reset(self, task: Task) -> None:
            await super().reset(task)
            raise RuntimeError("broken")

    async def main() -> None:
        admission = Admission(3)
        runner = EpisodeRunner(Bad(), ModelChat(), Answers(), LIMITS)
        jobs = [Job(slow(str(n), n), f"{n}-0") for n in range(9)]
        with pytest.raises(Exception, match="broken"):
            await run_episodes(runner, jobs, concurrency=admission, on_result=lambda *_: None)
        await asyncio.sleep(0)
        assert (admission.running, admission.waiting) == (0, 0)

    run(main())

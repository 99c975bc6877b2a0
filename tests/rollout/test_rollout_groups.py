"""Rewards that need all episodes of a task: when they are asked, of whom, and what breaks them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from rollout_support import Lines, make_runner

from agentrl import (
    DefinitionError,
    Env,
    NoVerdict,
    SessionLost,
    Task,
    Trajectory,
    UsageError,
    reward,
    schedule,
)
from agentrl.errors import UserCodeError
from agentrl.events import EpisodeFinished, EpisodeVoided
from agentrl.rollout import Job, run_episodes


class Ranked(Env):
    """Pays an episode for its place in the group; ``lost`` episodes lose their machine."""

    success = "rank"

    def __init__(self, lost: Sequence[str] = (), problem: Exception | None = None) -> None:
        super().__init__()
        self.lost, self.problem, self.seen = lost, problem, []

    async def reset(self, task: Task) -> None:
        for _ in range(task.metadata.get("slow", 0)):
            await asyncio.sleep(0)
        if task.id in self.lost:
            raise SessionLost("the machine went away")
        if task.id == "bad":
            raise UsageError("bad task")

    @reward
    def spoke(self, episode: Trajectory) -> float:
        return 1.0

    @reward(per="group")
    async def rank(self, episodes: Sequence[Trajectory]) -> list[float]:
        self.seen.append(sorted(episode.id for episode in episodes))
        if self.problem is not None:
            raise self.problem
        order = sorted(episode.id for episode in episodes)
        return [10.0 * order.index(episode.id) for episode in episodes]


def jobs(groups: int, size: int, **changes: Any) -> list[Job]:
    """Of each group, the earlier episodes end later."""
    return [
        Job(Task("Go.", id=f"{group}-{place}", metadata={"slow": 3 * (size - place)}), f"{group}-{place}",
            group=f"group-{group}", group_size=size, **changes)
        for group in range(groups)
        for place in range(size)
    ]  # fmt: skip


async def play(env: Env, todo: Sequence[Job], *, concurrency: int = 2, **limits: Any) -> Any:
    ended: dict[str, Trajectory] = {}
    runner, recorder = make_runner(env, Lines("done"), retries=0, **limits)

    def keep(job: Job, episode: Trajectory) -> None:
        assert job.episode_id == episode.id and job.episode_id not in ended
        ended[episode.id] = episode

    progress = await run_episodes(runner, todo, concurrency=concurrency, on_result=keep)
    return ended, progress, recorder


@pytest.mark.parametrize("concurrency", [1, 3, 16])
async def test_a_group_is_judged_once_when_its_last_episode_has_ended(concurrency: int) -> None:
    env = Ranked()
    ended, progress, recorder = await play(env, jobs(3, 4), concurrency=concurrency)
    assert (progress.done, progress.void, progress.running) == (12, 0, 0)
    assert sorted(env.seen) == [[f"{group}-{place}" for place in range(4)] for group in range(3)]
    for group in range(3):
        assert [ended[f"{group}-{place}"].reward for place in range(4)] == [1.0, 11.0, 21.0, 31.0]
    episode = ended["1-2"]
    assert episode.rewards == {"spoke": 1.0, "rank": 20.0}
    assert sum(episode.samples()[-1].rewards) == 21.0
    told = recorder.of(EpisodeFinished)
    assert sorted((event.episode, event.reward) for event in told) == sorted(
        (name, made.reward) for name, made in ended.items()
    )
    assert {event.episode for event in told if event.success} == {
        f"{group}-{place}" for group in range(3) for place in (1, 2, 3)
    }


async def test_void_episodes_are_left_out_and_do_not_keep_their_group_waiting() -> None:
    env = Ranked(lost=["0-0", "0-2", "1-0", "1-1", "1-2"])
    ended, progress, recorder = await play(env, jobs(2, 3))
    assert env.seen == [["0-1"]] and (progress.done, progress.void) == (6, 5)
    assert ended["0-1"].reward == 1.0
    assert [ended[name].reward for name in env.lost] == [None] * 5
    voided = recorder.of(EpisodeVoided)
    assert sorted(event.episode for event in voided) == sorted(env.lost) and all(
        event.final for event in voided
    )


async def test_a_judge_of_groups_that_fails_voids_the_group_alone() -> None:
    class Moody(Ranked):
        @reward(per="group")
        async def rank(self, episodes: Sequence[Trajectory]) -> list[float]:
            if episodes[0].group == "group-0":
                raise NoVerdict("the judge is silent")
            return [1.0 for _ in episodes]

    ended, progress, recorder = await play(Moody(), jobs(2, 3))
    assert (progress.done, progress.void) == (6, 3)
    for place in range(3):
        lost = ended[f"0-{place}"]
        assert (lost.status, lost.reward, lost.rewards, lost.samples()) == ("void", None, {}, [])
        assert "the judge is silent" in lost.reason
        assert ended[f"1-{place}"].reward == 2.0
    assert len(recorder.of(EpisodeVoided)) == 3 == len(recorder.of(EpisodeFinished))


async def test_a_judge_of_groups_that_hangs_is_stopped_by_the_episodes_limit() -> None:
    class Hanging(Ranked):
        @reward(per="group")
        async def rank(self, episodes: Sequence[Trajectory]) -> list[float]:
            await asyncio.Event().wait()
            return []

    ended, _, _ = await play(Hanging(), jobs(1, 2), episode_seconds=0.5)
    assert [episode.status for episode in ended.values()] == ["void", "void"]
    assert all("group rewards of environment hanging took longer" in made.reason for made in ended.values())


async def test_a_mistake_in_a_group_reward_stops_the_run() -> None:
    with pytest.raises(UserCodeError, match="Reward 'rank' raised ZeroDivisionError: odd"):
        await play(Ranked(problem=ZeroDivisionError("odd")), jobs(1, 2))


async def test_jobs_that_end_before_their_group_is_complete_are_told() -> None:
    with pytest.raises(ValueError, match=r"before group 'group-0' had its 3 episodes"):
        await play(Ranked(), jobs(1, 3)[:2])


# ---- one episode at a time, as verl asks for them


async def in_group(env: Env, tasks: Sequence[Task]) -> list[Any]:
    runner, _ = make_runner(env, Lines("done"), retries=0)
    work = (
        runner.run_in_group(task, size=len(tasks), group="g", episode_id=f"e{number}")
        for number, task in enumerate(tasks)
    )
    return await asyncio.gather(*work, return_exceptions=True)


async def test_each_episode_comes_back_when_all_are_judged() -> None:
    env = Ranked(lost=["t1"])
    played = await in_group(env, [Task("Go.", id=f"t{n}", metadata={"slow": 5 * n}) for n in range(4)])
    assert [made.reward for made in played] == [1.0, None, 11.0, 21.0]
    assert env.seen == [["e0", "e2", "e3"]]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_none_waits_for_an_episode_that_stopped_the_run(place: int) -> None:
    tasks = [Task("Go.", id="bad" if n == place else f"t{n}", metadata={"slow": 5 * n}) for n in range(3)]
    played = await in_group(Ranked(), tasks)
    assert all(isinstance(made, UsageError) and "bad task" in str(made) for made in played)


async def test_an_episode_that_is_cancelled_ends_its_group_without_cancelling_the_others() -> None:
    runner, _ = make_runner(Ranked(), Lines("done"), retries=0)
    work = [
        asyncio.create_task(
            runner.run_in_group(Task("Go.", metadata={"slow": slow}), size=2, group="g", episode_id=str(slow))
        )
        for slow in (0, 10_000)
    ]
    await asyncio.sleep(0)
    work[1].cancel()
    cancelled, told = await asyncio.gather(*reversed(work), return_exceptions=True)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(told, RuntimeError) and "was cancelled" in str(told)


async def test_a_mistake_in_a_group_reward_reaches_every_episode() -> None:
    tasks = [Task("Go.", id=f"t{n}", metadata={"slow": 5 * n}) for n in range(3)]
    played = await in_group(Ranked(problem=KeyError("odd")), tasks)
    assert all(isinstance(made, UserCodeError) for made in played)


async def test_without_group_rewards_nobody_waits() -> None:
    class Plain(Env):
        @reward
        def paid(self, episode: Trajectory) -> float:
            return 1.0

    runner, recorder = make_runner(Plain(), Lines("done"))
    episode = await runner.run_in_group(Task("Go."), size=8, group="g", episode_id="alone")
    assert episode.reward == 1.0 and len(recorder.of(EpisodeFinished)) == 1


async def test_progress_reaches_the_schedules() -> None:
    @reward
    def one(episode: Trajectory) -> float:
        return 1.0

    runner, _ = make_runner(Env(tasks=[Task("Go.")], rewards=[schedule(0, 10) * one]), Lines("done"))
    early = await runner.run(Task("Go."), episode_id="a", progress=0.25)
    late = await runner.run(Task("Go."), episode_id="b")
    assert (early.reward, late.reward, early.rewards) == (2.5, 10.0, {"one": 1.0})


def test_what_counts_as_success_cannot_be_left_out() -> None:
    class Lax(Env):
        success = "told"

        @reward(no_verdict="leave out")
        def told(self, episode: Trajectory) -> float:
            return 1.0

    with pytest.raises(DefinitionError, match=r"may be left out.*no_verdict='void'"):
        make_runner(Lax(), Lines("done"))

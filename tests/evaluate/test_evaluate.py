"""An evaluation plays every task, counts right, and keeps machines' failures out of the rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from evaluate_support import Recorder, Sums, make_chat, make_limits

from agentrl import Task, reward
from agentrl.cli.starting import init
from agentrl.errors import ConfigError, InfrastructureError
from agentrl.evaluate import EpisodeResult, EvalResult, evaluate, wilson_interval
from agentrl.events import EpisodeFinished, EvalFinished
from agentrl.registry import find_env
from agentrl.rollout import ScriptedPolicy
from agentrl.trajectory import Trajectory

pytest.importorskip("transformers")


async def run(env: Sums, samples: int = 1, tasks: list[Task] | None = None) -> tuple[EvalResult, Recorder]:
    recorder = Recorder()
    chosen = list(env.tasks("test")) if tasks is None else tasks
    result = await evaluate(
        env, make_chat(), ScriptedPolicy(make_chat()), make_limits(), chosen, samples=samples, events=recorder
    )
    return result, recorder


async def test_it_counts_what_was_solved() -> None:
    result, recorder = await run(Sums())
    assert (result.tasks, result.episodes, result.void, result.truncated) == (9, 9, 0, 0)
    assert result.success == result.reward == pytest.approx(6 / 9)
    assert (result.low, result.high) == pytest.approx(wilson_interval(6, 9))
    assert (result.turns, result.calls, result.call_error_share) == (3.0, 2.0, 0.0)
    assert result.tokens > 10
    assert [each.task for each in result.results] == [f"sum-{n}" for n in range(9)]
    assert [each.success for each in result.results] == [n % 3 != 0 for n in range(9)]
    finished = [event for event in recorder.events if isinstance(event, EpisodeFinished)]
    assert Counter(event.split for event in finished) == {"test": 9}
    [end] = [event for event in recorder.events if isinstance(event, EvalFinished)]
    assert (end.success, end.episodes) == (result.success, 9)


async def test_several_samples_give_pass_at_k_and_a_wider_interval_than_as_many_tasks() -> None:
    result, _ = await run(Sums(), samples=3)
    assert (result.tasks, result.episodes) == (9, 27)
    assert result.pass_at == {1: pytest.approx(6 / 9), 2: pytest.approx(6 / 9), 3: pytest.approx(6 / 9)}
    assert (result.low, result.high) == pytest.approx(wilson_interval(6, 9), abs=1e-9)
    assert Counter(each.sample for each in result.results) == {0: 9, 1: 9, 2: 9}


async def test_rewards_that_need_a_tasks_samples_get_them_without_the_void_ones() -> None:
    class Crowd(Sums):
        success = "right"

        @reward(per="group")
        def size(self, episodes: Sequence[Trajectory]) -> list[float]:
            assert len({episode.task.id for episode in episodes}) == 1
            return [float(len(episodes)) for _ in episodes]

    env = Crowd()
    env.broken = frozenset({"sum-1"})
    result, recorder = await run(env, samples=10)  # more than episodes at once
    assert (result.tasks, result.episodes, result.void) == (8, 80, 10)
    judged = [each for each in result.results if each.status != "void"]
    assert all(each.rewards["size"] == 10.0 for each in judged)
    assert all(each.reward == 10.0 + each.rewards["right"] for each in judged)
    assert result.success == pytest.approx(5 / 8)
    assert sum(isinstance(event, EpisodeFinished) for event in recorder.events) == 80


async def test_two_tasks_of_the_same_id_stay_two() -> None:
    tasks = [*Sums().tasks("test"), *Sums().tasks("test")]
    result, _ = await run(Sums(), tasks=tasks)
    assert (result.tasks, result.episodes) == (18, 18)


async def test_a_broken_machine_is_not_a_wrong_answer() -> None:
    env = Sums()
    env.broken = frozenset({"sum-1", "sum-2"})
    result, _ = await run(env, samples=2)
    assert (result.tasks, result.episodes, result.void) == (7, 14, 4)
    assert result.success == pytest.approx(4 / 7)
    void = [each for each in result.results if each.status == "void"]
    assert {each.task for each in void} == {"sum-1", "sum-2"}
    assert all(each.reward is None and not each.success and each.attempts == 2 for each in void)
    assert "the machine went away" in void[0].reason


async def test_nothing_measured_is_an_error_not_a_rate_of_zero() -> None:
    env = Sums()
    env.broken = frozenset(f"sum-{n}" for n in range(9))
    with pytest.raises(
        InfrastructureError, match=r"every one of 9 episodes was void .*the machine went away"
    ):
        await run(env)


async def test_no_tasks_or_samples_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no tasks in split 'test'"):
        await run(Sums(), tasks=[])
    with pytest.raises(ConfigError, match=r"eval\.samples=0"):
        await run(Sums(), samples=0)


async def test_each_episode_is_told_as_it_ends() -> None:
    told: list[tuple[EpisodeResult, Trajectory]] = []
    env = Sums()
    await evaluate(
        env,
        make_chat(),
        ScriptedPolicy(make_chat()),
        make_limits(),
        list(env.tasks("test")),
        on_episode=lambda result, trajectory: told.append((result, trajectory)),
    )
    assert len(told) == 9
    assert all(result.task == trajectory.task.id and result.tokens for result, trajectory in told)


def test_pass_at_k_leaves_out_tasks_with_too_few_judged_samples() -> None:
    def episode(position: int, sample: int, success: bool, status: str = "finished") -> EpisodeResult:
        reward = None if status == "void" else float(success)
        return EpisodeResult("t", position, sample, "e", status, "", success, reward, {}, 1, 0, 0, 5, 1.0, 1)

    results = [episode(0, 0, True), episode(0, 1, False), episode(1, 0, False), episode(1, 1, False, "void")]
    result = EvalResult.of(results, samples=2, seconds=1.0)
    assert result.pass_at == {1: pytest.approx(0.25), 2: pytest.approx(1.0)}
    assert result.to_dict()["pass_at"] == {"1": 0.25, "2": 1.0}


async def test_the_starter_file_works_with_its_expert(tmp_path: Path) -> None:
    init("env", "mine", tmp_path)
    env = find_env(str(tmp_path / "mine.py"))
    tasks = list(env.tasks("test"))[:6]
    assert not {task.id for task in tasks} & {task.id for task in env.tasks("train")}
    result = await evaluate(env, make_chat(), ScriptedPolicy(make_chat()), make_limits(), tasks)
    assert (result.success, result.calls) == (1.0, 1.0)

"""Rewards beside the environment's: a judge that nobody waits for (ONI), and potentials of states."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from judge_server import serving
from shaping_support import Shop, episode, judged

from agentrl import Observation, Trajectory
from agentrl.config import load_config
from agentrl.errors import ConfigError
from agentrl.scoring import score_episode
from agentrl.train.algorithm import plan
from agentrl.train.oni import Oni
from agentrl.train.shaping import shape_of
from agentrl.trajectory import call, say

POTENTIAL = """
def closer(episode, turns):
    return [0.5, 0.2, 0.9][turns]

def of_one(episode):
    return 0.0
"""


@pytest.fixture
def phi(tmp_path: Path) -> str:
    (tmp_path / "phi.py").write_text(POTENTIAL)
    return f"algorithm.shaping={{name: potential, options: {{function: '{tmp_path}/phi.py:closer'}}}}"


def test_a_turn_earns_what_it_brought_the_state_closer(phi: str) -> None:
    one = episode(1, [0, 0])
    assert judged([one], phi, "algorithm.shaping.options.end=state") == [pytest.approx(1 + 0.4)]
    assert one.turn_reward == {0: pytest.approx(-0.3), 1: pytest.approx(0.7)}
    words = [phi, "algorithm.shaping.options.gamma=0.5", "algorithm.shaping.options.weight=2"]
    one = episode(1, [0, 0])
    judged([one], *words)
    # 2 (0.5 * 0.2 - 0.5), and 2 (0 - 0.2): the end counts nothing
    assert one.turn_reward == {0: pytest.approx(-0.8), 1: pytest.approx(-0.4)}


def test_where_the_end_counts_nothing_all_episodes_of_a_task_earn_alike(phi: str) -> None:
    gamma = 0.5
    for turns in (1, 2):
        one = episode(0, [0] * turns)
        judged([one], phi, f"algorithm.shaping.options.gamma={gamma}")
        assert sum(gamma**i * gain for i, gain in one.turn_reward.items()) == pytest.approx(-0.5)


def test_what_is_no_potential_is_told_before_anything_starts(phi: str) -> None:
    for wrong, said in ((":of_one", r"of_one\(episode\); a potential is"), (":none", "none")):
        with pytest.raises(Exception, match=said):
            plan(load_config("env", [phi.replace(":closer", wrong)]).algorithm)
    with pytest.raises(ConfigError, match="function"):
        plan(load_config("env", ["algorithm.shaping={name: potential}"]).algorithm)


def shown(*texts: str) -> Trajectory:
    """An episode with a turn for each text, which it was shown."""
    one = episode(0, [0.0] * len(texts), calls=len(texts))
    one.messages = [{"role": "user", "content": "?"}, say("an example"), {"role": "user", "content": "!"}]
    for turn, text in zip(one.turns, texts, strict=True):
        turn.calls[0].observation = Observation(text)
        one.messages += [call("look"), {"role": "tool", "content": [{"type": "text", "text": text}]}]
    return one


def test_what_a_turn_was_shown_is_what_comes_before_the_next() -> None:
    one = shown("a door", "a wall")
    one.messages.append({"role": "user", "content": "Hurry."})
    assert [one.shown_after(turn) for turn in one.turns] == ["a door", "a wall\nHurry."]
    one.messages = []
    assert [one.shown_after(turn) for turn in one.turns] == ["a door", "a wall"]


async def test_onis_grades_come_beside_the_rollout_and_count_from_then_on() -> None:
    async with serving("SCORE: 10", "SCORE: 5") as endpoint:
        endpoint.gate.clear()
        where = f"{{url: '{endpoint.url}', model: m, retries: 0}}"
        words = [f"algorithm.shaping={{name: oni, options: {{endpoint: {where}, workers: 1}}}}"]
        part = plan(load_config("env", words).algorithm).shaping
        shape = shape_of(part, Shop(), 10)
        assert isinstance(part, Oni) and shape is not None

        async def earned(one: Trajectory) -> Trajectory:
            own = Shop().own_rewards()
            await asyncio.wait_for(score_episode(one, own, shape(own)), 5)  # though the judge hangs
            return one

        first = await earned(shown("a door", "a wall"))
        assert (first.reward, first.unshaped) == (0, 0) and "no grade yet" in first.missing["curiosity"]
        await earned(shown("a wall", "a door"))
        endpoint.gate.set()
        await part._labels.drained()
        again = await earned(shown("a door", "a wall", "a door"))
        assert again.turn_reward == {0: pytest.approx(0.1), 1: pytest.approx(0.05), 2: pytest.approx(0.1)}
        assert not again.missing and again.components["curiosity"] == pytest.approx(2.5)
        assert len(endpoint.requests) == 2, "each observation is asked for once"
        prompt = endpoint.requests[0]["messages"][1]["content"]
        assert "Task:\n?" in prompt and "a door\n</work-" in prompt


async def test_a_score_may_wait_a_little_for_its_grades() -> None:
    async with serving("SCORE: 10") as endpoint:
        where = f"{{url: '{endpoint.url}', model: m, retries: 0}}"
        words = [f"algorithm.shaping={{name: oni, options: {{endpoint: {where}, patience: 30}}}}"]
        shape, own = (
            shape_of(plan(load_config("env", words).algorithm).shaping, Shop(), 10),
            Shop().own_rewards(),
        )
        assert shape is not None
        one = shown("a door", "a wall", "a door")
        await score_episode(one, own, shape(own))
        assert one.turn_reward == {i: pytest.approx(0.1) for i in range(3)} and not one.missing
        assert len(endpoint.requests) == 2


async def test_a_judge_that_is_refused_stops_the_run_and_one_that_fails_does_not() -> None:
    for answer, refused in (((401, {}, b"no"), True), ((500, {}, b""), False), ("I cannot say.", False)):
        async with serving(answer) as endpoint:
            where = f"{{url: '{endpoint.url}', model: m, retries: 0}}"
            words = [f"algorithm.shaping={{name: oni, options: {{endpoint: {where}}}}}"]
            part = plan(load_config("env", words).algorithm).shaping
            shape, own = shape_of(part, Shop(), 10), Shop().own_rewards()
            assert isinstance(part, Oni) and shape is not None
            await score_episode(shown("a door"), own, shape(own))
            await part._labels.drained()
            if refused:
                with pytest.raises(ConfigError, match="401"):
                    await score_episode(shown("a door"), own, shape(own))
            else:
                one = shown("a door")
                await score_episode(one, own, shape(own))
                assert one.reward == 0


def test_a_judge_without_a_place_is_told_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        plan(load_config("env", ["algorithm.shaping={name: oni}"]).algorithm)
    words = (
        "algorithm.shaping={name: oni, options: {endpoint: {url: 'http://x/v1', model: m}, words: 'Well?'}}"
    )
    with pytest.raises(Exception, match="shows nothing of the episode"):
        plan(load_config("env", [words]).algorithm)

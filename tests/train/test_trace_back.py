"""VeriRL: failed episodes are reflected on; the trees' scores through episodes' judgement and the trainer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from replay_support import lab
from rollout_support import Recorder, make_chat, make_tokenizer, sampled, write_call
from shaping_support import Shop, episode, step

from agentrl import Task, Trajectory
from agentrl.agent import AgentEnv
from agentrl.config import load_config, validate
from agentrl.errors import ConfigError, UserCodeError
from agentrl.events import EpisodeFinished
from agentrl.train import runtime
from agentrl.train.agent_loop import EpisodeLoop, EpisodeOutput
from agentrl.train.algorithm import plan
from agentrl.train.attempts import with_words
from agentrl.train.failure import read_failure
from agentrl.train.shaping import shape_of
from agentrl.train.trace_back import TraceBack

NAME = "algorithm.name=verirl"

ENV = """
from agentrl import Env, Trajectory, reward, tool

class Grading(Env):
    success = "grade"

    @tool
    async def look(self) -> str:
        '''Look.'''
        return "all tests fail"

    @reward
    def grade(self, episode: Trajectory) -> float:
        return float(episode.final_text)
"""


class Output:
    def __init__(self, ids: list[int]) -> None:
        self.token_ids, self.log_probs = ids, [-1.0] * len(ids)
        self.stop_reason, self.extra_fields = "completed", {"global_steps": 0}


class Client:
    """Says a line by the episode's name, after a look around where there is a line for that."""

    def __init__(self, lines: Mapping[str, str | list[str]]) -> None:
        self.lines, self.prompts = lines, dict[str, list[str]]()

    async def generate(self, name: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> Output:
        prompts = self.prompts.setdefault(name, [])
        prompts.append(make_chat().decode(prompt_ids))
        said = self.lines.get(name, "1")
        return Output(sampled(said if isinstance(said, str) else said[len(prompts) - 1]))


async def play(
    folder: Path, client: Client, *, size: int = 1, options: Mapping[str, Any], **rollout: Any
) -> list[list[EpisodeOutput]]:
    (folder / "grading.py").write_text(ENV)
    limits = {"renderer": "chatml-json", "retries": 0, "max_prompt_tokens": 1000, **rollout}
    algorithm = {"name": "verirl", "group_size": max(2, size), "shaping": {"options": options}}
    config = validate(
        {"env": str(folder / "grading.py"), "steps": 2, "algorithm": algorithm, "rollout": limits}
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    task = Task("Pass the tests.", id="adder")
    info = {"index": 0, "split": "train", "task": json.dumps(task.to_dict())}

    async def one(session: int) -> list[EpisodeOutput]:
        loop = EpisodeLoop(run=str(folder), server_manager=client, tokenizer=make_tokenizer())
        return await loop.run({"temperature": 1.0}, extra_info=info, uid="g", session_id=session,
                              global_steps=1, group_size=size)  # fmt: skip

    return list(await asyncio.gather(*(one(session) for session in range(size))))


TREE: dict[str, str | list[str]] = {
    "g_0": [write_call("look"), "0.1"],
    "g_0-r0": "0.1", "g_0-r1": "0.9",
    "g_0-r0-r0": "1.0", "g_0-r0-r1": "0.6",
}  # fmt: skip


async def test_the_papers_tree_gives_the_root_the_mean_of_its_reflections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """.1 with children .1 and .9, of which the first has 1 and .6: .85. Another root is good as it is."""
    told = Recorder()
    monkeypatch.setattr(runtime, "FileSink", lambda *where, **how: told)
    client = Client({**TREE, "g_1": "0.2"})
    (failed,), (good,) = await play(tmp_path, client, size=2, options={"children": 2})
    assert read_failure(tmp_path) is None
    assert sum(failed.token_rewards) == failed.reward_score == pytest.approx(0.85)
    assert failed.token_rewards[-1] == pytest.approx(0.85)
    assert sum(good.token_rewards) == pytest.approx(0.2)
    summary = failed.extra_fields["episode"]
    assert (summary["unshaped"], summary["rewards"]["reflections"], summary["turns"]) == (0.1, 4, 2)
    assert good.extra_fields["episode"]["rewards"]["reflections"] == 0
    assert sorted(client.prompts) == sorted([*TREE, "g_1"])
    ended = {event.episode: event.reward for event in told.of(EpisodeFinished)}
    assert ended == pytest.approx({"g_0": 0.85, "g_1": 0.2})  # nothing is told of reflections


async def test_a_reflection_is_shown_the_attempt_before_it_and_what_that_saw(tmp_path: Path) -> None:
    client = Client(TREE)
    await play(tmp_path, client, options={"children": 2})
    [first], [deep] = client.prompts["g_0-r0"], client.prompts["g_0-r0-r0"]
    assert "Pass the tests." in first and "You called look: {}" in first and "all tests fail" in first
    assert "a score of 0.1 of 1" in first and "You: 0.1" in first
    assert "Pass the tests." in deep and "all tests fail" not in deep and "You: 0.1" in deep


async def test_rounds_and_the_score_that_counts_as_failed_are_settings(tmp_path: Path) -> None:
    client = Client({"g_0": "0.1", "g_0-r0": "0.3"})
    [[row]] = await play(tmp_path, client, options={"rounds": 1, "reflect_below": 0.5})
    assert row.reward_score == pytest.approx(0.3) and len(client.prompts) == 2


async def test_an_attempt_that_does_not_fit_the_prompt_is_not_reflected_on(tmp_path: Path) -> None:
    client = Client({"g_0": "0.1"})
    [[row]] = await play(tmp_path, client, options={}, max_prompt_tokens=250)
    assert row.reward_score == pytest.approx(0.1) and list(client.prompts) == ["g_0"]


def how(**options: Any) -> TraceBack:
    return TraceBack(**options)


def judged_root(score: float = 0.0) -> Trajectory:
    one = episode(score)
    one.unshaped = score
    return one


async def test_reflections_that_are_late_or_void_count_for_nothing() -> None:
    async def played(root: Trajectory, failed: Trajectory, number: int, words: str) -> Trajectory | None:
        if number == 0:
            await asyncio.sleep(60)
        if number == 1:
            return None
        return Trajectory(root.task, f"r{number}", reward=0.6)

    root = judged_root()
    assert await how(children=3).rescored([root], played, seconds=0.2) == [0.6]
    assert root.metadata["reflections"] == [{"id": "r2", "score": 0.6, "parent": "e"}]


async def test_a_fault_in_a_reflection_is_told_as_it_is() -> None:
    async def played(root: Trajectory, failed: Trajectory, number: int, words: str) -> Trajectory | None:
        if failed is not root:
            raise UserCodeError("a tool is broken")
        return Trajectory(root.task, "child", reward=0.0)

    with pytest.raises(UserCodeError, match="a tool is broken"):
        await how().rescored([judged_root()], played)


def test_words_go_on_behind_the_task() -> None:
    text = with_words([{"role": "user", "content": "Add."}], "Again.")
    assert text == [{"role": "user", "content": "Add.\n\nAgain."}]
    seen = with_words([{"role": "user", "content": [{"type": "image", "image": "x"}]}], "Again.")
    assert seen[0]["content"][-1] == {"type": "text", "text": "\n\nAgain."} and len(seen[0]["content"]) == 2
    assert with_words([{"role": "system", "content": "Add."}], "Again.")[1]["role"] == "user"


def test_rescored_rewards_weigh_samples_in_the_trainers_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """P = [.2, .4, .6] and R = [.9, .3, .3]: weights of the loss [1.8, 1, 1.5], of the KL [.5, .6, .6]."""
    made = lab(monkeypatch, NAME, "hardware.device=cpu", size=3)
    group = [judged_root() for _ in range(3)]
    for one, reward, probability in zip(group, (0.9, 0.3, 0.3), (0.2, 0.4, 0.6), strict=True):
        one.reward = one.episode_reward = reward
        one.segments[0].logprobs[-1] = float(np.log(probability))
    rows = list(step(made, {"t": group}).values())
    assert [row["loss_weights"][0] for row in rows] == pytest.approx([1.8, 1, 1.5])
    assert [row["kl_weights"][0] for row in rows] == pytest.approx([0.5, 0.6, 0.6])
    assert sum(row["advantages"][0] for row in rows) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("{rounds: 0}", "rounds=0"),
        ("{score: grad}", "no reward 'grad'"),
        ("{words: Again.}", "words='Again.'"),
        ("{child: 2}", "Did you mean 'children'"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_starts(options: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        shape_of(plan(load_config("env", [NAME, f"algorithm.shaping.options={options}"]).algorithm).shaping,
                 Shop(), 4)  # fmt: skip


def test_agents_that_open_their_own_dialogues_are_refused() -> None:
    class Own(AgentEnv):
        pass

    with pytest.raises(ConfigError, match="has an agent of its own"):
        shape_of(plan(load_config("env", [NAME]).algorithm).shaping, Own([]), 4)

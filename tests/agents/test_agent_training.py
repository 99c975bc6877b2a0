"""Agents where training, evaluation and demonstrations meet them: as any other environment."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from agents_support import (
    TASK,
    Lines,
    call,
    exact,
    make_chat,
    make_env,
    make_runner,
    openai_chat,
    sampled,
    talk,
)

import agentrl
from agentrl import AgentEnv, Env, Expert, Task, say
from agentrl.config import Rollout, validate
from agentrl.evaluate import evaluate
from agentrl.registry import find_env
from agentrl.rollout import Job, ScriptedPolicy, episode_seed, run_episodes
from agentrl.train.agent_loop import EpisodeLoop
from agentrl.train.demonstrate import demonstrate, examples

EXAMPLE = Path(__file__).parents[2] / "examples/my_agent.py"
LIMITS = Rollout(max_prompt_tokens=4000, max_trajectory_tokens=4000, retries=0, retry_seconds=0.0)


class Sums(AgentEnv):
    """Sums, which its expert gets right."""

    rewards = (exact,)

    def tasks(self, split: str) -> list[Task]:
        return [Task(f"{n} + 1?", answer=str(n + 1), metadata={"n": n}) for n in range(4)]

    async def agent(self, task: Task, base_url: str, api_key: str) -> str:
        return await openai_chat(task, base_url, api_key)

    def expert(self, task: Task, rng: random.Random) -> Expert | None:
        def play() -> Expert:
            [total] = yield agentrl.call("add", a=task.metadata["n"], b=1)
            yield say(total)

        return play()


async def test_an_expert_plays_the_model_for_a_real_agent() -> None:
    episodes = await demonstrate(Sums(), make_chat(), 3, seed=0, limits=LIMITS)
    assert [episode.reward for episode in episodes] == [1.0] * 3
    rows = examples(episodes, 4000)
    assert len(rows) == 3
    shown = [
        make_chat().decode([token for token, sampled in zip(row.ids, row.sampled, strict=True) if sampled])
        for row in rows
    ]
    assert shown[1] == f"{call('add', a=1, b=1)}<|im_end|>2<|im_end|>"


async def test_an_agent_is_evaluated_like_any_environment() -> None:
    env = Sums()
    found = await evaluate(
        env, make_chat(), ScriptedPolicy(make_chat()), LIMITS, list(env.tasks("test")), samples=2
    )
    assert (found.episodes, found.success, found.void, found.turns, found.calls) == (8, 1.0, 0, 2.0, 1.0)
    silent = await evaluate(env, make_chat(), Lines("none"), LIMITS, list(env.tasks("test")))
    assert (silent.episodes, silent.success) == (4, 0.0)


ENV = """
import aiohttp
from agentrl import AgentEnv, reward

class Rewriting(AgentEnv):
    async def agent(self, task, base_url, api_key):
        async def talk(*words):
            messages = [{"role": "user", "content": word} for word in words]
            async with aiohttp.ClientSession() as client:
                async with client.post(f"{base_url}/chat/completions", json={"messages": messages}) as answer:
                    return (await answer.json())["choices"][0]["message"]["content"]
        return await talk("summary", await talk(task.prompt))

    @reward
    def exact(self, episode):
        return float(episode.final_text == episode.task.answer)
"""


class VerlsClient:
    """Plays verl's inference servers."""

    def __init__(self, *lines: str) -> None:
        self.lines = [sampled(line) for line in lines]
        self.given: list[list[int]] = []

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> Any:
        self.given.append(prompt_ids)
        ids = self.lines[len(self.given) - 1]
        extra = {"global_steps": 7}
        return SimpleNamespace(
            token_ids=ids, log_probs=[-0.5] * len(ids), stop_reason="completed", extra_fields=extra
        )


async def test_an_agents_samples_are_the_rows_that_verl_trains_on(tmp_path: Path) -> None:
    (tmp_path / "rewriting.py").write_text(ENV)
    rollout = {"renderer": "chatml-json", "retries": 0}
    config = validate({"env": str(tmp_path / "rewriting.py"), "steps": 1, "rollout": rollout})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    client = VerlsClient("five", "5")
    loop = EpisodeLoop(run=str(tmp_path), server_manager=client, tokenizer=make_chat().tokenizer)
    rows = await loop.run(
        {"temperature": 0.5},
        extra_info={"index": 0, "split": "train", "task": json.dumps(TASK.to_dict())},
        uid="group",
        session_id=2,
        global_steps=1,
    )
    assert [row.prompt_ids for row in rows] == client.given
    assert [row.response_ids for row in rows] == client.lines
    assert all(all(row.response_mask) and set(row.response_logprobs) == {-0.5} for row in rows)
    assert [sum(row.token_rewards) for row in rows] == [0.0, 1.0]
    for row in rows:
        assert row.reward_score == 1.0 and row.extra_fields["max_global_steps"] == 7
        assert [entry["token_ids"] for entry in row.extra_fields["ledger"]] == client.lines


async def test_an_environment_of_ones_own_takes_an_agent_along() -> None:
    """The tasks and rewards of an environment for our loop, played by an agent."""

    class Known(Env):
        rewards = (exact,)

        def __init__(self, top: int = 3) -> None:
            self.top = top

        def tasks(self, split: str) -> list[Task]:
            return [Task(f"{n}?", answer=str(n)) for n in range(self.top)]

    class Played(Known, AgentEnv):
        async def agent(self, task: Task, base_url: str, api_key: str) -> None:
            await talk(base_url, task.prompt)

    env = Played(top=2)
    ended: list[Any] = []
    await run_episodes(
        make_runner(env, Lines("1")),
        [Job(task, task.id) for task in env.tasks("train")],
        concurrency=2,
        on_result=lambda job, episode: ended.append((episode.task.answer, episode.reward)),
    )
    assert sorted(ended) == [("0", 0.0), ("1", 1.0)]


async def test_an_agent_runs_the_models_code_in_the_sandbox() -> None:
    from agentrl.rollout import EpisodeRunner
    from agentrl.sandbox import open_sandbox

    class Coder(AgentEnv):
        rewards = (exact,)

        async def agent(self, task: Task, base_url: str, api_key: str) -> str:
            code = (await talk(base_url, task.prompt))["content"]
            return (await self.context.run(code)).stdout.strip()

    async with open_sandbox() as sandbox:
        runner = EpisodeRunner(Coder(), make_chat(), Lines("print(2 + 3)"), LIMITS, sandbox=sandbox)
        episode = await runner.run(Task("2 + 3?", "5"), episode_id="e")
    assert (episode.final_text, episode.reward) == ("5", 1.0), episode.reason


async def test_the_example_plays_and_can_be_solved() -> None:
    env: Any = find_env(str(EXAMPLE))
    ended: list[Any] = []
    tasks = list(env.tasks("test"))[5:9]
    await run_episodes(
        make_runner(env, ScriptedPolicy(make_chat())),
        [Job(task, task.id, seed=episode_seed(0, task.id, 0)) for task in tasks],
        concurrency=4,
        on_result=lambda job, episode: ended.append(episode),
    )
    looked = {bool(episode.calls): episode.reward for episode in ended}
    assert looked == {True: 1.0, False: 0.0}


def test_what_an_agent_handed_in_is_on_record() -> None:
    from agentrl import Trajectory, Turn

    episode = Trajectory(Task("?"), "e", turns=[Turn(0, 0, 0, 0, text="said")])
    assert (episode.final_text, episode.to_dict()["answer"]) == ("said", None)
    episode.answer = ""
    assert (episode.final_text, episode.to_dict()["answer"]) == ("", "")
    assert make_env(openai_chat).spawn().agent is openai_chat

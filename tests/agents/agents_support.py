"""Agents built on official clients, a policy whose lines are given, and environments that they play."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
from rollout_support import make_tokenizer

from agentrl import AgentEnv, Task, Trajectory, reward
from agentrl.chat import Chat
from agentrl.config import Rollout
from agentrl.rollout import EpisodeRunner, SimulatedPolicy

TASK = Task("What is 2 + 3?", answer="5", id="sum", metadata={"hint": "add"})
ADD = {
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}


@functools.cache
def make_chat() -> Chat:
    """The real chat format, tools listed, on a tokenizer built in memory."""
    return Chat(make_tokenizer(), "chatml-json")


def call(name: str, **arguments: Any) -> str:
    """A call as a model writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def sampled(text: str) -> list[int]:
    """The tokens of a turn, split as no tokenizer would: one for each character."""
    chat = make_chat()
    ids = [token for character in text for token in chat.encode(character)]
    return [*ids, chat.stop_token_ids[0]]


class Lines(SimulatedPolicy):
    """Says one line per turn, in every episode the same; every token has a log-probability of its own."""

    def __init__(self, *lines: str, seconds: float = 0.0) -> None:
        self.prompts: dict[str, list[list[int]]] = {}
        self.samplings: list[Any] = []
        self._lines = [sampled(line) for line in lines]
        super().__init__(self._say, seconds=seconds, version=3)

    def _say(self, prompt_ids: Sequence[int], episode: str) -> Sequence[int]:
        prompts = self.prompts.setdefault(episode, [])
        prompts.append(list(prompt_ids))
        return self._lines[min(len(prompts), len(self._lines)) - 1]

    async def generate(self, prompt_ids: Any, sampling: Any, **rest: Any) -> Any:
        self.samplings.append(sampling)
        generation = await super().generate(prompt_ids, sampling, **rest)
        generation.logprobs[:] = [-index / 8 for index in range(len(generation.token_ids))]
        return generation


@reward
def exact(episode: Trajectory) -> float:
    return float(episode.final_text == episode.task.answer)


def make_env(agent: Callable[..., Any] | None = None, **options: Any) -> AgentEnv:
    return AgentEnv(tasks=[TASK], rewards=[exact], agent=agent, **options)


def make_runner(env: AgentEnv, policy: Any, **limits: Any) -> EpisodeRunner:
    wide = {
        "max_prompt_tokens": 4000, "max_trajectory_tokens": 8000, "max_turn_tokens": 2000, "max_turns": 20,
        "retry_seconds": 0.0, "retries": 0, "episode_seconds": 90.0,
    }  # fmt: skip
    return EpisodeRunner(env, make_chat(), policy, Rollout(**{**wide, **limits}))


async def play(agent: Any, policy: Any, **limits: Any) -> Trajectory:
    env = agent if isinstance(agent, AgentEnv) else make_env(agent)
    return await make_runner(env, policy, **limits).run(TASK, episode_id="e", seed=1)


def check(episode: Trajectory, policy: Lines, name: str = "e") -> None:
    """What must hold of every episode: each turn is what the policy was given, and gave."""
    prompts = policy.prompts[name]
    assert len(episode.turns) == len(prompts)
    covered = [[False] * len(segment.token_ids) for segment in episode.segments]
    for turn, prompt in zip(episode.turns, prompts, strict=True):
        segment = episode.segments[turn.segment]
        assert segment.token_ids[: turn.start] == prompt
        ids = segment.token_ids[turn.start : turn.end]
        assert make_chat().decode(ids) == turn.raw
        assert segment.logprobs[turn.start : turn.end] == [-index / 8 for index in range(len(ids))]
        assert segment.versions[turn.start : turn.end] == [3] * len(ids)
        covered[turn.segment][turn.start : turn.end] = [True] * len(ids)
    assert covered == [segment.mask for segment in episode.segments]


async def openai_chat(task: Task, base_url: str, api_key: str, **options: Any) -> str:
    """An agent on OpenAI's client: chat completions and a tool."""
    from openai import AsyncOpenAI

    messages: list[Any] = [{"role": "user", "content": task.prompt}]
    async with AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        while True:
            answer = await client.chat.completions.create(
                model="any", messages=messages, tools=[{"type": "function", "function": ADD}], **options
            )
            message = answer.choices[0].message
            messages.append(message)
            if not message.tool_calls:
                return message.content or ""
            for wanted in message.tool_calls:
                numbers = json.loads(wanted.function.arguments)
                messages.append(
                    {"role": "tool", "tool_call_id": wanted.id, "content": str(numbers["a"] + numbers["b"])}
                )


async def openai_stream(task: Task, base_url: str, api_key: str) -> str:
    """The same, streamed."""
    from openai import AsyncOpenAI

    messages: list[Any] = [{"role": "user", "content": task.prompt}]
    async with AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        while True:
            async with client.chat.completions.stream(
                model="any",
                messages=messages,
                tools=[{"type": "function", "function": ADD}],
                stream_options={"include_usage": True},
            ) as stream:
                answer = await stream.get_final_completion()
            assert answer.usage is not None and answer.usage.completion_tokens > 0
            message = answer.choices[0].message
            messages.append(message.model_dump(exclude={"parsed"}, exclude_none=True))
            if not message.tool_calls:
                return message.content or ""
            for wanted in message.tool_calls:
                messages[-1]["tool_calls"][0]["function"].pop("parsed_arguments", None)
                numbers = json.loads(wanted.function.arguments)
                messages.append(
                    {"role": "tool", "tool_call_id": wanted.id, "content": str(numbers["a"] + numbers["b"])}
                )


async def openai_responses(
    task: Task, base_url: str, api_key: str, *, stored: bool = False, stream: bool = False
) -> str:
    """An agent on OpenAI's client: responses, with the dialogue sent each time or continued by its id."""
    from openai import AsyncOpenAI

    tools: list[Any] = [{"type": "function", **ADD, "strict": False}]
    new: list[Any] = [{"role": "user", "content": task.prompt}]
    sent: list[Any] = []
    before: str | None = None
    async with AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        while True:
            sent += new
            asked = {"previous_response_id": before, "input": new} if stored else {"input": sent}
            arguments: Any = {"model": "any", "instructions": "Be brief.", "tools": tools, **asked}
            if stream:
                async with client.responses.stream(**arguments) as events:
                    answer: Any = await events.get_final_response()
            else:
                answer = await client.responses.create(**arguments)
            before = answer.id
            sent += [item.model_dump(exclude={"parsed_arguments"}) for item in answer.output]
            calls = [item for item in answer.output if item.type == "function_call"]
            if not calls:
                return str(answer.output_text)
            numbers = json.loads(calls[0].arguments)
            total = str(numbers["a"] + numbers["b"])
            new = [{"type": "function_call_output", "call_id": calls[0].call_id, "output": total}]


async def anthropic_agent(task: Task, base_url: str, api_key: str, *, stream: bool = False) -> str:
    """An agent on Anthropic's client."""
    from anthropic import AsyncAnthropic

    tool = {"name": "add", "description": ADD["description"], "input_schema": ADD["parameters"]}
    messages: list[Any] = [{"role": "user", "content": task.prompt}]
    arguments: Any = {"model": "any", "max_tokens": 500, "system": "Be brief.", "tools": [tool]}
    async with AsyncAnthropic(base_url=base_url.removesuffix("/v1"), api_key=api_key) as client:
        while True:
            answer: Any
            if stream:
                async with client.messages.stream(**arguments, messages=messages) as events:
                    answer = await events.get_final_message()
            else:
                answer = await client.messages.create(**arguments, messages=messages)
            messages.append({"role": "assistant", "content": answer.content})
            calls = [block for block in answer.content if block.type == "tool_use"]
            if not calls:
                assert answer.stop_reason == "end_turn"
                return str(answer.content[0].text)
            assert answer.stop_reason == "tool_use"
            totals = {block.id: str(block.input["a"] + block.input["b"]) for block in calls}
            results = [
                {"type": "tool_result", "tool_use_id": name, "content": total}
                for name, total in totals.items()
            ]
            messages.append({"role": "user", "content": results})


async def ask(base_url: str, *messages: Any, api_key: str = "", **options: Any) -> tuple[int, dict[str, Any]]:
    """Status and body of a chat completion, without a client's help; words are the user's."""
    said = [
        {"role": "user", "content": message} if isinstance(message, str) else message for message in messages
    ]
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {api_key}"}) as client:
        async with client.post(f"{base_url}/chat/completions", json={"messages": said, **options}) as answer:
            return answer.status, await answer.json()


async def talk(base_url: str, *messages: Any, **options: Any) -> dict[str, Any]:
    """The model's message."""
    status, body = await ask(base_url, *messages, **options)
    assert status == 200, body
    message: dict[str, Any] = body["choices"][0]["message"]
    return message

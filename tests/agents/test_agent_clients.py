"""Official clients and a framework against the endpoint: dialogues become exact tokens."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from agents_support import (
    TASK,
    Lines,
    anthropic_agent,
    call,
    check,
    make_chat,
    make_env,
    openai_chat,
    openai_responses,
    openai_stream,
    play,
)

from agentrl import Task

ADDING = (f"Let me see. {call('add', a=2, b=3)}", "5")

AGENTS = {
    "chat completions": openai_chat,
    "chat completions, streamed": openai_stream,
    "responses": openai_responses,
    "responses, streamed": functools.partial(openai_responses, stream=True),
    "responses, continued by id": functools.partial(openai_responses, stored=True),
    "anthropic messages": anthropic_agent,
    "anthropic messages, streamed": functools.partial(anthropic_agent, stream=True),
}


@pytest.mark.parametrize("name", AGENTS)
async def test_an_official_clients_dialogue_is_one_exact_stream(name: str) -> None:
    policy = Lines(*ADDING)
    episode = await play(AGENTS[name], policy)

    check(episode, policy)
    assert (episode.status, episode.final_text, episode.reward) == ("finished", "5", 1.0)
    [segment] = episode.segments
    [sample] = episode.samples()
    assert [made.text for made in episode.turns] == ["Let me see.", "5"]
    [made] = episode.calls
    assert (made.name, made.arguments, made.observation.text) == ("add", {"a": 2, "b": 3}, "5")
    written = make_chat().decode(segment.token_ids)
    assert written.endswith(
        f"<|im_start|>assistant\n{ADDING[0]}<|im_end|>\n<|im_start|>user\n<tool_response>\n5\n</tool_response>"
        "<|im_end|>\n<|im_start|>assistant\n5<|im_end|>"
    )
    assert sample.rewards[-1] == 1.0 and sum(sample.rewards) == 1.0
    assert TASK.prompt in written[: written.index("assistant")]


async def test_tokens_are_kept_even_where_another_tokenization_would_be_shorter() -> None:
    policy = Lines(*ADDING)
    episode = await play(openai_chat, policy)
    turn = episode.turns[0]
    ids = episode.segments[0].token_ids[turn.start : turn.end]
    assert len(make_chat().encode(ADDING[0])) + 1 < len(ids)
    check(episode, policy)


async def test_a_client_is_found_by_its_key_alone() -> None:
    async def agent(task: Task, base_url: str, api_key: str) -> str:
        bare = base_url.replace(f"/{api_key}", "")
        assert bare != base_url
        first = await openai_chat(task, bare, api_key)
        second = await anthropic_agent(task, bare, api_key)
        third = await openai_chat(task, base_url, "some other key")
        return first + second + third

    policy = Lines("1", "2", "3")
    episode = await play(agent, policy)
    check(episode, policy)
    assert episode.final_text == "123"


async def test_frameworks_agent_plays_unchanged() -> None:
    """smolagents turns calls into text in its dialogue, so every turn of it is a sample of its own."""
    from smolagents import OpenAIServerModel, Tool, ToolCallingAgent

    class Add(Tool):  # type: ignore[misc, unused-ignore]
        name = "add"
        description = "Add two numbers."
        inputs = {
            "a": {"type": "integer", "description": "one"},
            "b": {"type": "integer", "description": "other"},
        }
        output_type = "integer"

        def forward(self, a: int, b: int) -> int:
            return a + b

    def agent(task: Task, base_url: str, api_key: str) -> str:
        model = OpenAIServerModel("any", api_base=base_url, api_key=api_key)
        return str(
            ToolCallingAgent(tools=[Add()], model=model, max_steps=4, verbosity_level=0).run(task.prompt)
        )

    policy = Lines(call("add", a=2, b=3), call("final_answer", answer="5"))
    episode = await play(agent, policy, max_prompt_tokens=20_000)
    check(episode, policy)
    assert (episode.status, episode.final_text, episode.reward) == ("finished", "5", 1.0)
    assert len(episode.samples()) == len(episode.turns) == 2
    assert [sum(sample.rewards) for sample in episode.samples()] == [0.0, 1.0]


async def test_what_a_request_may_ask_for_and_what_not() -> None:
    from openai import AsyncOpenAI, BadRequestError

    asked: list[Any] = [{"role": "user", "content": "Go."}]
    refused: list[str] = []

    async def agent(task: Task, base_url: str, api_key: str) -> str:
        async with AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
            create = functools.partial(client.chat.completions.create, model="any")
            cut = await create(messages=asked, stop=["Observation:"], temperature=0.1, max_tokens=100)
            assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("Thought. ", "stop")
            short = await create(messages=asked, max_tokens=3)
            assert short.choices[0].finish_reason == "length"
            for wrong in (
                {"messages": asked, "n": 2},
                {"messages": asked, "response_format": {"type": "json_object"}},
                {"messages": []},
                {"messages": [*asked, {"role": "assistant", "content": "It is"}]},
                {
                    "messages": [
                        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
                    ]
                },
                {"messages": [{"role": "clown", "content": "Hi."}]},
                {"messages": asked, "max_tokens": -1},
                {"messages": "Go."},
                {"messages": asked, "temperature": 3},
                {"messages": asked, "top_p": 0},
            ):
                with pytest.raises(BadRequestError) as problem:
                    await create(**wrong)
                refused.append(str(problem.value))
        return "done"

    policy = Lines("Thought. Observation: none.")
    episode = await play(agent, policy, temperature=0.7)
    check(episode, policy)
    assert (
        len(refused) == 10
        and "from 0 to 2, not 3" in refused[8]
        and "n=2" in refused[0]
        and "image_url" in refused[4]
    )
    assert {sampling.temperature for sampling in policy.samplings} == {0.7}  # the run's
    assert policy.samplings[0].stop_strings == ("Observation:",)
    assert [sampling.max_tokens for sampling in policy.samplings] == [100, 3]
    assert (episode.status, episode.final_text) == ("finished", "done")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("run", [(0.7, 0.9)] * 4), ("agent", [(0.0, 0.9), (0.3, 0.5), (1.0, 0.9), (0.7, 0.9)])],
)
async def test_whose_temperature_counts_is_the_runs_choice(setting: str, expected: list[Any]) -> None:
    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

    asked: list[Any] = [{"role": "user", "content": "Go."}]

    async def agent(task: Task, base_url: str, api_key: str) -> str:
        async with AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
            await client.chat.completions.create(model="any", messages=asked, temperature=0)
            await client.responses.create(model="any", input="Go.", temperature=0.3, top_p=0.5)
        async with AsyncAnthropic(base_url=base_url, api_key=api_key) as other:
            create = functools.partial(other.messages.create, model="any", max_tokens=9, messages=asked)
            await create(extra_body={"temperature": 1.0})
            await create()
        return "done"

    policy = Lines("Yes.")
    episode = await play(agent, policy, temperature=0.7, top_p=0.9, agent_sampling=setting)
    assert episode.final_text == "done", episode.reason
    assert [(sampling.temperature, sampling.top_p) for sampling in policy.samplings] == expected


async def test_tokens_are_counted_for_anthropics_client() -> None:
    from anthropic import AsyncAnthropic

    async def agent(task: Task, base_url: str, api_key: str) -> str:
        messages: list[Any] = [{"role": "user", "content": task.prompt}]
        async with AsyncAnthropic(base_url=base_url.removesuffix("/v1"), api_key=api_key) as client:
            counted = await client.messages.count_tokens(model="any", messages=messages)
            answer = await client.messages.create(model="any", messages=messages, max_tokens=50)
        assert counted.input_tokens == answer.usage.input_tokens
        return str(counted.input_tokens)

    policy = Lines("5")
    episode = await play(agent, policy)
    assert episode.final_text == str(episode.segments[0].prompt_length)
    check(episode, policy)


def test_an_environment_has_an_agent_or_a_command() -> None:
    from agentrl import DefinitionError

    with pytest.raises(DefinitionError, match="not by both"):
        make_env(openai_chat, command=["true"])

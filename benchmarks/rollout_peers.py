"""The loops that :mod:`benchmarks.rollout_loop` sets beside ours, on its fake engine and tool.

verl's ``ToolAgentLoop`` does what ours does: it tokenizes, keeps masks and parses calls. ``verifiers`` talks
to an engine in messages, so it is spared all of that: an object in the process stands for the OpenAI client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

from benchmarks.rollout_loop import ANSWER, QUESTION, THOUGHT, TURNS, Engine, seconds_of, tokenizer

PLENTY = 8192
"""Tokens an episode may have; none of these has nearly as many."""

SCHEMA = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look up the price on a day.",
        "parameters": {
            "type": "object",
            "properties": {"day": {"type": "integer", "description": "The day."}},
            "required": ["day"],
        },
    },
}


def verl(episodes: int) -> Callable[[], Awaitable[None]]:
    """verl's loop for tools, an object per episode, as its workers run it."""
    from hydra import compose, initialize_config_module
    from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
    from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
    from verl.tools.base_tool import BaseTool
    from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse
    from verl.workers.rollout.replica import TokenOutput

    made = tokenizer()
    encode = lambda text: made.encode(text, add_special_tokens=False)  # noqa: E731
    engine = Engine(encode, made.convert_tokens_to_ids("<|im_end|>"))
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer")
    rollout = config.actor_rollout_ref.rollout
    rollout.prompt_length = rollout.response_length = PLENTY
    rollout.multi_turn.format = "hermes"

    class LookUp(BaseTool):
        async def execute(self, instance_id: str, parameters: Mapping[str, Any], **given: Any) -> Any:
            data = given["agent_data"]
            await asyncio.sleep(seconds_of(data.tools_kwargs["episode"], data.user_turns, "tool"))
            return ToolResponse(text="412"), 0.0, {}

    class Server:
        async def generate(self, *, sampling_params: Mapping[str, Any], **_: Any) -> Any:
            ids = list(await engine.next(sampling_params["episode"]))
            return TokenOutput(token_ids=ids, log_probs=[-1.0] * len(ids))

    tools = ToolListWrap([LookUp({}, OpenAIFunctionToolSchema.model_validate(SCHEMA))])

    async def episode(number: int) -> Any:
        loop = ToolAgentLoop(
            trainer_config=DictConfigWrap(config), server_manager=Server(), tokenizer=made, processor=None,
            dataset_cls=None, data_config=DictConfigWrap(config.data), tools=tools,
        )  # fmt: skip
        prompt = [{"role": "user", "content": QUESTION}]
        return await loop.run(
            {"episode": number}, raw_prompt=prompt, tools_kwargs={"episode": number, "look_up": {}}
        )

    async def play() -> None:
        outputs = await asyncio.gather(*map(episode, range(episodes)))
        # Turns are counted with the question and the tool's answers.
        assert [output.num_turns for output in outputs] == [2 * TURNS] * episodes

    return play


def verifiers(episodes: int) -> Callable[[], Awaitable[None]]:
    """The rollout of a ``ToolEnv`` of verifiers 0.1.9."""
    import verifiers as vf
    from datasets import Dataset
    from openai.types.chat import ChatCompletion

    playing: ContextVar[Client] = ContextVar("playing")

    async def look_up(day: int) -> str:
        """Look up the price on a day."""
        client = playing.get()
        await asyncio.sleep(seconds_of(client.episode, client.turns - 1, "tool"))
        return "412"

    class Client:
        """Answers as an engine would, with its waiting."""

        def __init__(self, episode: int) -> None:
            self.episode, self.turns = episode, 0
            self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create))
            self.base_url = "none"

        async def create(self, **_: Any) -> ChatCompletion:
            turn, self.turns = self.turns, self.turns + 1
            await asyncio.sleep(seconds_of(self.episode, turn, "engine"))
            message: dict[str, Any] = {"role": "assistant", "content": THOUGHT}
            if turn == TURNS - 1:
                message["content"] = ANSWER
            else:
                call = {"name": "look_up", "arguments": '{"day": 17}'}
                message["tool_calls"] = [{"id": f"{turn}", "type": "function", "function": call}]
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            return ChatCompletion.model_validate(
                {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            )

    env = vf.ToolEnv(
        tools=[look_up],
        dataset=Dataset.from_list([{"question": QUESTION, "answer": "412"}]),
        rubric=vf.Rubric(),
    )
    prompt = [{"role": "user", "content": QUESTION}]

    async def episode(number: int) -> Any:
        given = {"prompt": list(prompt), "answer": "412", "task": "prices", "example_id": number}
        client = Client(number)
        playing.set(client)  # each episode is a task, with a context of its own
        return await env.rollout(given, client, "m", {})

    async def play() -> None:
        states = await asyncio.gather(*map(episode, range(episodes)))
        assert [len(state["trajectory"]) for state in states] == [TURNS] * episodes

    return play


LOOPS: dict[str, Callable[[int], Callable[[], Awaitable[None]]]] = {"verl": verl, "verifiers": verifiers}

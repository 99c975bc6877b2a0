"""Dialogues that agents extend, rewrite, branch and abandon: each becomes exact tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from agents_support import ADD, Lines, ask, check, make_chat, play, talk
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl import Task
from agentrl.config import Algorithm
from agentrl.doctor import Row
from agentrl.doctor.checks import logprobs_arrived, mask_matches, tokens_match
from agentrl.rollout.policy import Generation, Sampling


async def test_a_rewritten_history_begins_a_new_sample() -> None:
    async def agent(task: Task, base_url: str, api_key: str) -> None:
        first = await talk(base_url, "one")
        second = await talk(base_url, "one", first, "two")
        await talk(base_url, "one", {**first, "content": "in short: 1"}, "two", second, "three")

    policy = Lines("1", "2", "3")
    episode = await play(agent, policy)
    check(episode, policy)
    assert [turn.segment for turn in episode.turns] == [0, 0, 1]
    assert episode.final_text == "3"  # it handed nothing in: the last thing the model said
    earlier, last = episode.samples()
    assert (sum(earlier.mask), sum(last.mask)) == (4, 2)
    written = make_chat().decode(last.prompt_ids)
    assert "in short: 1" in written and "2<|im_end|>" in written  # context, not trained


async def test_other_tools_begin_a_new_sample() -> None:
    async def agent(task: Task, base_url: str, api_key: str) -> None:
        first = await talk(base_url, "one")
        await talk(base_url, "one", first, "two", tools=[{"type": "function", "function": ADD}])

    policy = Lines("1", "2")
    episode = await play(agent, policy)
    check(episode, policy)
    assert [turn.segment for turn in episode.turns] == [0, 1]


async def test_branches_share_the_tokens_they_come_from() -> None:
    """Two requests at once from one point, and a third from further back."""

    async def agent(task: Task, base_url: str, api_key: str) -> None:
        first = await talk(base_url, "one")
        left, right = await asyncio.gather(
            talk(base_url, "one", first, "left"), talk(base_url, "one", first, "right")
        )
        await talk(base_url, "one", first, "right", right, "on")
        await talk(base_url, "one", first, "left", left, "on")
        await talk(base_url, "one", first, "left", left, "again")

    policy = Lines("1", "2", "3", "4", "5", "6", seconds=0.01)
    episode = await play(agent, policy)
    check(episode, policy)
    assert sorted(turn.segment for turn in episode.turns) == [0, 0, 0, 1, 1, 2]
    first = episode.turns[0]
    shared = episode.segments[0].token_ids[: first.end]
    for segment in episode.segments[1:]:
        assert segment.token_ids[: first.end] == shared
        assert not any(segment.mask[: first.end])  # what was sampled once is trained once


async def test_dialogues_side_by_side_grow_each_by_itself() -> None:
    async def agent(task: Task, base_url: str, api_key: str) -> None:
        main = await talk(base_url, "plan")
        helper = await talk(base_url, {"role": "system", "content": "You help."}, "do")
        await talk(base_url, "plan", main, "done")
        await talk(base_url, {"role": "system", "content": "You help."}, "do", helper, "more")

    policy = Lines("1", "2", "3", "4")
    episode = await play(agent, policy)
    check(episode, policy)
    assert [turn.segment for turn in episode.turns] == [0, 1, 0, 1]


async def test_the_same_request_again_is_another_sample() -> None:
    async def agent(task: Task, base_url: str, api_key: str) -> None:
        await talk(base_url, "one")
        second = await talk(base_url, "one")
        await talk(base_url, "one", second, "two")

    policy = Lines("1", "2", "3")
    episode = await play(agent, policy)
    check(episode, policy)
    assert [turn.segment for turn in episode.turns] == [0, 1, 1]


async def test_reasoning_and_a_malformed_call_stay_in_the_stream_as_sampled() -> None:
    async def agent(task: Task, base_url: str, api_key: str) -> str:
        first = await talk(base_url, "one")
        assert first["reasoning_content"] == "hm" and "tool_calls" not in first
        assert first["content"] == 'so\n{"name": add}'
        plain = {"role": "assistant", "content": first["content"]}
        return str((await talk(base_url, "one", plain, "that was no call"))["content"])

    policy = Lines('<think>\nhm\n</think>\n\nso <tool_call>{"name": add}</tool_call>', "2")
    episode = await play(agent, policy)
    check(episode, policy)
    assert len(episode.segments) == 1 and episode.turns[0].calls[0].status == "malformed"


class Held(Lines):
    """Does not begin its first turn before it is let go."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.asked, self.cancelled = asyncio.Event(), asyncio.Event()

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, **rest: Any) -> Generation:
        if not self.asked.is_set():
            self.asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        generation: Generation = await super().generate(prompt_ids, sampling, **rest)
        return generation


async def test_a_client_that_hangs_up_leaves_no_turn() -> None:
    policy = Held("1")

    async def agent(task: Task, base_url: str, api_key: str) -> None:
        request = asyncio.ensure_future(ask(base_url, "one"))
        await policy.asked.wait()
        request.cancel()
        await policy.cancelled.wait()
        await talk(base_url, "one")

    episode = await play(agent, policy)
    check(episode, policy)
    assert len(episode.turns) == len(episode.segments) == 1


async def test_turns_under_way_when_the_agent_ends_are_not_recorded() -> None:
    policy = Held("1")
    requests: list[Any] = []

    async def agent(task: Task, base_url: str, api_key: str) -> str:
        requests.append(asyncio.ensure_future(ask(base_url, "one")))
        await policy.asked.wait()
        return "5"

    episode = await play(agent, policy)
    assert (episode.status, episode.reward, episode.turns) == ("finished", 1.0, [])
    assert episode.samples() == []
    status, _ = await requests[0]
    assert status == 410


STEPS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["extend", "rewrite", "again"])), max_size=8)


@settings(max_examples=12)
@given(STEPS)
def test_whatever_an_agent_does_to_its_history_the_record_is_exact(
    steps: list[tuple[int, str]],
) -> None:
    """Extending any earlier dialogue, rewriting it, asking again: the doctor finds nothing amiss either."""

    async def agent(task: Task, base_url: str, api_key: str) -> None:
        dialogues: list[list[Any]] = [["begin"]]
        for which, how in steps:
            dialogue = dialogues[which % len(dialogues)]
            if how == "rewrite":
                dialogue = [m if isinstance(m, str) else {**m, "content": "shorter"} for m in dialogue]
            answer = await talk(base_url, *dialogue)
            dialogues.append([*dialogue, answer, "on" if how == "extend" else "further"])

    # Some turns are alike and some differ.
    policy = Lines("a b", "c", "c", "a b", "d e f", "c", "g", "a b")
    episode = asyncio.run(play(agent, policy))
    if not steps:
        return
    check(episode, policy)
    rows = doctors_rows(episode, policy)
    tokens_match(rows)
    mask_matches(rows, Algorithm(name="ppo"))
    logprobs_arrived(rows)


def doctors_rows(episode: Any, policy: Lines) -> list[Row]:
    """The episode's samples as the trainer hands them to the doctor."""
    ledger = [
        {
            "prompt_ids": prompt,
            "token_ids": episode.segments[turn.segment].token_ids[turn.start : turn.end],
            "logprobs": [-index / 8 for index in range(turn.end - turn.start)],
        }
        for turn, prompt in zip(episode.turns, policy.prompts["e"], strict=True)
    ]
    return [
        Row(
            key=f"task_0_{index}",
            episode={"status": "finished", "reward": episode.reward},
            ledger=ledger,
            columns={
                "prompts": np.array(sample.prompt_ids),
                "responses": np.array(sample.response_ids),
                "response_mask": np.array(sample.mask, dtype=int),
                "rollout_log_probs": np.array(sample.logprobs, dtype=np.float32),
                "advantages": np.zeros(len(sample.mask)),
            },
        )
        for index, sample in enumerate(episode.samples())
    ]

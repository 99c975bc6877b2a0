"""verl's client as a policy: what it is asked, what counts as a failure, and the ledger beside it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from agentrl.errors import EngineError
from agentrl.rollout.policy import Sampling
from agentrl.train.policy import LedgerEntry, VerlPolicy


@dataclass
class Output:
    """Stands for verl's ``TokenOutput``."""

    token_ids: list[int]
    log_probs: list[float] | None = None
    stop_reason: str | None = "completed"
    extra_fields: dict[str, Any] = field(default_factory=lambda: {"global_steps": 4})


class Client:
    """Answers with one output after the other, and keeps what it was asked."""

    def __init__(self, *outputs: Output | Exception) -> None:
        self.outputs, self.asked = list(outputs), []

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> Output:
        self.asked.append((request_id, prompt_ids, sampling_params))
        output = self.outputs.pop(0)
        if isinstance(output, Exception):
            raise output
        return output


def output(*tokens: int, **changes: Any) -> Output:
    return Output(list(tokens), **{"log_probs": [-t / 10 for t in tokens], **changes})


async def test_tokens_logprobs_and_versions_are_those_of_the_engine() -> None:
    client = Client(output(7, 8, 2))
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=9, stop_token_ids=(2,))
    generation = await VerlPolicy(client, 5).generate((1, 3), sampling, episode="e")
    assert generation.token_ids == [7, 8, 2]
    assert generation.logprobs == [-0.7, -0.8, -0.2]
    assert generation.versions == [4, 4, 4]
    ((request, prompt, asked),) = client.asked
    assert (request, prompt) == ("e", [1, 3])
    assert asked == {
        "temperature": 0.7, "top_p": 0.9, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True,
        "max_tokens": 9, "stop_token_ids": [2],
    }  # fmt: skip


async def test_seeds_and_stop_strings_are_passed_on_where_there_are_any() -> None:
    client = Client(output(7))
    await VerlPolicy(client, 5).generate([1], Sampling(seed=0, stop_strings=("</a>",)), episode="e")
    asked = client.asked[0][2]
    assert (asked["seed"], asked["stop"], asked["include_stop_str_in_output"]) == (0, ["</a>"], True)


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ([7, 8, 9], "length"),
        ([7, 8, 2], "stop"),  # the stop token as the very last that was allowed
        ([7, 8], "stop"),
        ([7, 2, 8], "length"),
    ],
)
async def test_a_turn_is_cut_off_where_it_has_all_its_tokens_and_no_stop(
    tokens: list[int], reason: str
) -> None:
    sampling = Sampling(max_tokens=3, stop_token_ids=(2,))
    generation = await VerlPolicy(Client(output(*tokens)), 5).generate([1], sampling, episode="e")
    assert generation.stop_reason == reason


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (output(7, stop_reason="aborted"), "gave up on a turn .*aborted"),
        (output(), "gave up on a turn"),
        (output(7, log_probs=None), "gave up on a turn"),
        (RuntimeError("actor died"), "engine failed: RuntimeError: actor died"),
        (TimeoutError(), r"did not answer within 5 s \(rollout\.response_seconds\)"),
    ],
)
async def test_an_engine_that_fails_is_infrastructure_and_leaves_nothing_in_the_ledger(
    answer: Any, words: str
) -> None:
    policy = VerlPolicy(Client(answer), 5)
    with pytest.raises(EngineError, match=words):
        await policy.generate([1], Sampling(), episode="e")
    assert policy.take_ledger("e") == []


async def test_an_engine_that_hangs_is_given_up_and_cancelled() -> None:
    cancelled = asyncio.Event()

    class Hanging:
        async def generate(self, *_args: Any, **_kwargs: Any) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    with pytest.raises(EngineError, match=r"within 0\.05 s"):
        await VerlPolicy(Hanging(), 0.05).generate([1], Sampling(), episode="e")
    assert cancelled.is_set()


async def test_a_version_that_is_unknown_is_marked() -> None:
    generation = await VerlPolicy(Client(output(7, extra_fields={})), 5).generate(
        [1], Sampling(), episode="e"
    )
    assert generation.versions == [-1]


async def test_the_ledger_keeps_all_attempts_of_an_episode_in_order_and_apart_from_others() -> None:
    policy = VerlPolicy(Client(*(output(token) for token in (7, 8, 9, 5))), 5)
    for prompt, name in ((1, "e"), (2, "e~2"), (3, "f"), (4, "e~2")):
        await policy.generate([prompt], Sampling(), episode=name)
    assert policy.take_ledger("e") == [
        LedgerEntry([1], [7], [-0.7], versions=(4,)),
        LedgerEntry([2], [8], [-0.8], versions=(4,)),
        LedgerEntry([4], [5], [-0.5], versions=(4,)),
    ]
    assert policy.take_ledger("e") == []
    assert [entry.prompt_ids for entry in policy.take_ledger("f")] == [[3]]


async def test_the_ledger_is_not_the_callers_prompt() -> None:
    policy, prompt = VerlPolicy(Client(output(7)), 5), [1, 2]
    await policy.generate(prompt, Sampling(), episode="e")
    prompt.append(3)
    assert policy.take_ledger("e")[0].prompt_ids == [1, 2]

"""Turns that weight updates interrupt: every token is kept, with the version that sampled it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from agentrl.rollout.policy import Sampling
from agentrl.train.client import VersionedClient
from agentrl.train.policy import VerlPolicy


class Engine:
    """Counts up from the last token it is given; an update cuts a turn short."""

    def __init__(self, *pieces: int) -> None:
        self.pieces, self.version, self.asked = list(pieces), 3, []

    async def generate(self, _client: Any, request_id: str, **asked: Any) -> TokenOutput:
        self.asked.append({"request": request_id, **asked})
        wanted = asked["sampling_params"]["max_tokens"]
        length = min(self.pieces.pop(0), wanted) if self.pieces else wanted
        aborted = length < wanted
        first = asked["prompt_ids"][-1] + 1
        tokens = list(range(first, first + length))
        fields = {"global_steps": self.version, "num_cached_tokens": len(self.asked)}
        self.version += aborted
        return TokenOutput(
            token_ids=tokens, log_probs=[-float(token) for token in tokens] if tokens else None,
            stop_reason="aborted" if aborted else "completed", extra_fields=fields,
        )  # fmt: skip


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()

    async def generate(self: Any, request_id: str, **asked: Any) -> TokenOutput:
        return await made.generate(self, request_id, **asked)

    monkeypatch.setattr(LLMServerClient, "generate", generate)
    return made


def client() -> VersionedClient:
    return VersionedClient(SimpleNamespace(), None)


async def test_an_interrupted_turn_keeps_its_tokens_and_their_versions(engine: Engine) -> None:
    engine.pieces = [3, 0, 2]
    output = await client().generate("e", prompt_ids=[9], sampling_params={"max_tokens": 8, "seed": 5})
    assert output.token_ids == list(range(10, 18))
    assert output.log_probs == [-float(token) for token in range(10, 18)]
    assert output.extra_fields["token_versions"] == [3, 3, 3, 5, 5, 6, 6, 6]
    assert [len(asked["prompt_ids"]) for asked in engine.asked] == [1, 4, 4, 6]
    assert [asked["sampling_params"]["max_tokens"] for asked in engine.asked] == [8, 5, 5, 3]
    assert {asked["request"] for asked in engine.asked} == {"e"}  # it stays on its replica
    seeds = [asked["sampling_params"]["seed"] for asked in engine.asked]
    assert len(set(seeds)) == 3  # no random number is used for two tokens


async def test_an_interruption_at_the_budget_is_the_end(engine: Engine) -> None:
    engine.pieces = [2, 2]
    output = await client().generate("e", prompt_ids=[9], sampling_params={"max_tokens": 4})
    assert (output.stop_reason, len(output.token_ids)) == ("length", 4)


async def test_a_minimum_shrinks_with_the_budget(engine: Engine) -> None:
    engine.pieces = [3]
    await client().generate("e", prompt_ids=[9], sampling_params={"max_tokens": 8, "min_tokens": 5})
    assert [asked["sampling_params"]["min_tokens"] for asked in engine.asked] == [5, 2]


async def test_versions_reach_the_episode_and_the_ledger(engine: Engine) -> None:
    engine.pieces = [2]
    policy = VerlPolicy(client(), 5)
    generation = await policy.generate([9], Sampling(max_tokens=4), episode="e")
    assert generation.versions == [3, 3, 4, 4]
    (entry,) = policy.take_ledger("e")
    assert entry.record(None)["versions"] == [3, 3, 4, 4] and entry.cached == 1

"""The vLLM policy on a real engine with a tiny random model."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
from process_tree import descendants, wait_until_gone
from rollout_support import make_tokenizer

from agentrl.errors import EngineError, UsageError
from agentrl.rollout.policy import Sampling

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]
pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        dtype="float32", initializer_range=0.3,
    )  # fmt: skip
    Qwen2ForCausalLM(config).to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def before() -> set[int]:
    """The processes below this one, multiprocessing's tracker among them, which serves the whole process."""
    resource_tracker.ensure_running()
    return descendants(os.getpid())


@pytest.fixture(autouse=True)
def quiet_environment() -> Iterator[None]:
    """The engine's settings go into the environment; take them out again."""
    before = dict(os.environ)
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield
    os.environ.clear()
    os.environ.update(before)


def forward_logprobs(folder: Path, prompt: list[int], sampled: list[int], temperature: float) -> Any:
    import torch
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + sampled])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits / temperature, -1)[range(len(sampled)), sampled]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder in which sockets may lie: their paths have at most 107 characters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


async def test_samples_with_the_logprobs_of_the_model_and_leaves_nothing(
    model_folder: Path, before: set[int], short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    from agentrl.rollout.vllm_policy import VllmPolicy

    policy = await VllmPolicy.open(
        str(model_folder), memory=0.1, max_tokens=128, concurrency=8, version=7, options={"dtype": "float32"}
    )
    try:
        started = descendants(os.getpid()) - before
        assert started
        prompt = make_tokenizer().encode("one two three")
        sampling = Sampling(temperature=0.7, max_tokens=24, seed=3)
        first, again, other = await asyncio.gather(
            policy.generate(prompt, sampling, episode="a"),
            policy.generate(prompt, sampling, episode="b"),
            policy.generate(prompt, Sampling(temperature=0.7, max_tokens=24, seed=4), episode="c"),
        )
        assert first.token_ids == again.token_ids != other.token_ids
        for generation in (first, other):
            count = len(generation.token_ids)
            assert 0 < count <= 24 and len(generation.logprobs) == count
            assert generation.versions == [7] * count
            expected = forward_logprobs(model_folder, prompt, generation.token_ids, 0.7)
            assert generation.logprobs == pytest.approx(expected.tolist(), abs=2e-2)

        stop = first.token_ids[2]
        stopped = await policy.generate(
            prompt, Sampling(temperature=0.7, max_tokens=24, seed=3, stop_token_ids=(stop,)), episode="d"
        )
        position = first.token_ids.index(stop)
        assert (stopped.token_ids, stopped.stop_reason) == (first.token_ids[: position + 1], "stop")
        cut = await policy.generate(prompt, Sampling(max_tokens=2, seed=3, temperature=0.7), episode="e")
        assert (cut.token_ids, cut.stop_reason) == (first.token_ids[:2], "length")

        with pytest.raises(UsageError, match="refused a prompt of 200 tokens"):
            await policy.generate([5] * 200, sampling, episode="f")
    finally:
        await policy.close()
    assert not wait_until_gone(started)
    assert [*short_folder.iterdir()] == []
    with pytest.raises(EngineError):
        await policy.generate(prompt, sampling, episode="g")
    await policy.close()


async def test_a_dead_engine_is_an_engine_error(model_folder: Path, before: set[int]) -> None:
    from agentrl.rollout.vllm_policy import VllmPolicy

    async with await VllmPolicy.open(str(model_folder), memory=0.1, max_tokens=512, concurrency=2) as policy:
        long = Sampling(max_tokens=500, temperature=1.0)
        request = asyncio.ensure_future(policy.generate([5, 6, 7], long, episode="a"))
        await asyncio.sleep(0.05)
        started = descendants(os.getpid()) - before
        for process in started:
            os.kill(process, signal.SIGKILL)
        with pytest.raises(EngineError):
            await asyncio.wait_for(request, 60)
        with pytest.raises(EngineError):
            await policy.generate([5, 6, 7], long, episode="b")
    assert not wait_until_gone(started)

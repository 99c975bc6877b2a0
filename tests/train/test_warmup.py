"""The warm-up: demonstrations come from the loop, and only what the expert sampled is learnt."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from agentrl import Env, SessionLost, Task, Trajectory, reward, tool
from agentrl.chat import Chat
from agentrl.config import Rollout
from agentrl.errors import ConfigError, DefinitionError, InfrastructureError
from agentrl.train import tiny
from agentrl.train.demonstrate import Example, demonstrate, examples
from agentrl.train.fit import fit, schedule
from agentrl.train.folders import building
from agentrl.train.warmup import Progress, warmup


class Lookup(Env):
    """The answer to each question is in a box that a tool opens. The expert looks, or guesses."""

    prompt = "Open the box."

    def tasks(self, split: str) -> Iterator[Task]:
        for number in range(40):
            yield Task(f"What is in box {number}?", answer=str(number * 7))

    async def reset(self, task: Task) -> None:
        self.answer = task.answer

    @tool
    def look(self, box: int) -> str:
        """Open a box."""
        return str(self.answer)

    @reward
    def right(self, episode: Trajectory) -> float:
        return float(episode.final_text == episode.task.answer)

    def expert(self, task: Task, rng: random.Random) -> Any:
        if rng.random() < 0.5:
            yield {"content": "3"}
            return
        box = int(task.prompt.split()[-1].rstrip("?"))
        calls = [{"type": "function", "function": {"name": "look", "arguments": {"box": box}}}]
        (shown,) = yield {"content": "", "tool_calls": calls}
        yield {"content": shown}


class LostBoxes(Lookup):
    """Its tool's machine is always down."""

    @tool
    def look(self, box: int) -> str:
        """Open a box."""
        raise SessionLost("the store is gone")


@pytest.fixture
def chat() -> Chat:
    return tiny.chat(tiny.make_tokenizer())


# ---- the vocabulary


TOKENIZER = tiny.make_tokenizer(["Compute 12 + 34. The answer is 46."] * 20)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_the_vocabulary_encodes_any_text(text: str) -> None:
    ids = tiny.chat(TOKENIZER).encode(text)
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=10**12), st.sampled_from(["", "print(", "box", " ", "-", "\n"]))
def test_each_digit_is_a_token_whatever_stands_before_it(number: int, before: str) -> None:
    ids = tiny.chat(TOKENIZER).encode(f"{before}{number}")
    digits = [TOKENIZER.decode([token]) for token in ids[-len(str(number)) :]]
    assert digits == list(str(number))


def test_the_same_texts_give_the_same_vocabulary() -> None:
    texts = ["one and two", "two and three"] * 5
    assert tiny.make_tokenizer(texts).get_vocab() == tiny.make_tokenizer(texts).get_vocab()


def test_a_chat_template_says_what_the_renderer_writes(chat: Chat) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "12?"}]
    templated = chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat.decode(chat.prompt(messages)) == templated


# ---- demonstrations


async def test_the_rows_hold_what_the_expert_sampled_and_nothing_else(chat: Chat) -> None:
    played = await demonstrate(Lookup(), chat, 12, seed=0)
    rows = examples(played, longest=1000)
    assert len(rows) == 12
    called = 0
    for (ids, sampled, _), episode in zip(rows, played, strict=True):
        said = chat.decode([token for token, own in zip(ids, sampled, strict=True) if own])
        assert said == "".join(turn.raw for turn in episode.turns)
        called += '"name": "look"' in said
        assert "tool_response" not in said and "box " not in said
        if episode.calls:
            assert episode.rewards["right"] == 1.0 and "<tool_response>" in chat.decode(ids)
    assert 0 < called < 12


async def test_the_seed_decides_the_demonstrations(chat: Chat) -> None:
    async def said(seed: int) -> list[tuple[str, str]]:
        played = await demonstrate(Lookup(), chat, 45, seed=seed)
        return [(episode.task.prompt, episode.final_text) for episode in played]

    first = await said(0)
    assert first == await said(0)
    assert first != await said(1)
    assert [prompt for prompt, _ in first[40:]] == [prompt for prompt, _ in first[:5]], "tasks come round"


async def test_an_episode_that_a_limit_cut_off_is_not_demonstrated(chat: Chat) -> None:
    limits = Rollout(max_turn_tokens=8)  # room for a guess, not for a call
    played = await demonstrate(Lookup(), chat, 12, seed=0, limits=limits)
    assert 0 < len(played) < 12
    assert not any(episode.calls for episode in played)


async def test_failing_machines_stop_it(chat: Chat) -> None:
    limits = Rollout(retries=0)
    with pytest.raises(InfrastructureError, match="the store is gone"):
        await demonstrate(LostBoxes(), chat, 12, seed=0, limits=limits)


async def test_an_environment_without_an_expert_cannot_be_demonstrated(chat: Chat) -> None:
    with pytest.raises(DefinitionError, match="no expert"):
        await demonstrate(Env(tasks=[Task("Hello?")]), chat, 1, seed=0)


async def test_rows_that_the_model_cannot_hold_are_left_out(chat: Chat) -> None:
    played = await demonstrate(Lookup(), chat, 12, seed=0)
    lengths = sorted(len(row.ids) for row in examples(played, longest=1000))
    assert lengths[0] < lengths[-1]
    assert len(examples(played, longest=lengths[-1] - 1)) < 12
    with pytest.raises(DefinitionError, match="longer than 20 tokens"):
        examples(played, longest=20)


# ---- training


def test_the_loss_is_that_of_the_sampled_tokens() -> None:
    rng = random.Random(0)
    rows = []
    for length in (9, 30, 17, 24, 12):
        ids = [rng.randrange(7, 200) for _ in range(length)]
        rows.append(Example(ids, [i > 4 and rng.random() < 0.5 for i in range(length)]))
    expected, counted = 0.0, 0
    model = tiny.make_model(TOKENIZER, seed=3)
    for ids, sampled, _ in rows:
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([ids])).logits.log_softmax(-1)[0]
        for place in range(1, len(ids)):
            if sampled[place]:
                expected -= float(logprobs[place - 1, ids[place]])
                counted += 1
    (loss,) = fit(
        model, rows, steps=1, batch_size=5, learning_rate=1e-3, seed=0, progress=lambda step, loss: None
    )
    assert loss == pytest.approx(expected / counted, rel=1e-4)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [schedule(step, 200) for step in range(200)]
    assert (
        rates[0] < 0.05
        and max(rates) == pytest.approx(1, abs=0.06)
        and rates[-1] == pytest.approx(0.05, abs=0.01)
    )
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(
        rates[peak:], reverse=True
    )


@pytest.mark.timeout(400)
def test_a_warm_up_learns_and_writes_a_model_that_loads(tmp_path: Path) -> None:
    seen: list[Progress] = []
    out = tmp_path / "model"
    report = warmup(Lookup(), out, steps=40, demonstrations=60, batch_size=16, progress=seen.append)
    losses = [entry.loss for entry in seen if entry.stage == "training" and entry.loss is not None]
    assert len(losses) == report.steps == 40
    assert losses[0] > 4 and report.loss < 1.5
    assert [entry.done for entry in seen if entry.stage == "demonstrations"] == list(range(1, 61))
    assert report.demonstrations == 60 and 0.2 < report.tool_rate < 0.8
    assert report.expert_success == pytest.approx(report.tool_rate, abs=0.1)
    chat = Chat.load(str(out))
    assert chat.name == "chatml-json"
    schema = {"type": "function", "function": {"name": "look", "description": "", "parameters": {}}}
    assert "look" not in chat.decode(chat.prompt([{"role": "user", "content": "?"}], [schema]))
    weights = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    _, model = tiny.load(out)
    assert sum(parameter.numel() for parameter in model.parameters()) == report.parameters


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> bytes:
        warmup(Lookup(), tmp_path / name, seed=seed, steps=3, demonstrations=20, batch_size=8)
        return (tmp_path / name / "model.safetensors").read_bytes()

    first = weights("a", 0)
    assert first == weights("b", 0)
    assert first != weights("c", 1)


def test_a_warm_up_goes_on_from_a_model_and_keeps_its_vocabulary(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    warmup(Lookup(), first, steps=2, demonstrations=20, batch_size=8)
    warmup(Lookup(), second, steps=2, demonstrations=20, batch_size=8, start=first)
    assert (first / "tokenizer.json").read_bytes() == (second / "tokenizer.json").read_bytes()
    assert (first / "agentrl_chat.json").read_bytes() == (second / "agentrl_chat.json").read_bytes()
    before, after = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert before.keys() == after.keys()
    name = "model.embed_tokens.weight"
    assert 0 < float((before[name].float() - after[name].float()).abs().max()) < 0.05, (
        "a few small steps away"
    )


def test_a_folder_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        warmup(Lookup(), tmp_path, steps=1, demonstrations=1)
    assert (tmp_path / "kept").read_text() == "mine"


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError):
        warmup(Env(tasks=[Task("Hello?")]), tmp_path / "model", steps=1, demonstrations=1)
    assert list(tmp_path.iterdir()) == []


def test_of_two_who_build_the_same_folder_one_wins(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with building(target) as mine:
        (mine / "config.json").write_text("mine")
        with building(target) as theirs:
            (theirs / "config.json").write_text("theirs")
    assert (target / "config.json").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_new_vocabulary_keeps_the_layers_and_the_meaning_of_known_tokens() -> None:
    known = tiny.make_tokenizer(["x one two"] * 9)
    model = tiny.make_model(known, seed=0).eval()
    tokenizer = tiny.make_tokenizer(["x one four five"] * 9, size=300)
    adapted = tiny.with_vocabulary(model, known, tokenizer).eval()
    ids = known.encode("x one 12")
    same = tokenizer.encode("x one 12")
    assert tokenizer.decode(same) == known.decode(ids) and len(same) == len(ids), "both know these tokens"
    with torch.no_grad():
        before = model.model(torch.tensor([ids])).last_hidden_state
        after = adapted.model(torch.tensor([same])).last_hidden_state
        pieces = model.get_input_embeddings().weight[known.encode(" four")].mean(dim=0)
        row = adapted.get_input_embeddings().weight[tokenizer.encode(" four")[0]]
    torch.testing.assert_close(after, before)
    assert len(tokenizer.encode(" four")) == 1
    torch.testing.assert_close(row, pieces)
    assert adapted.lm_head.weight is adapted.get_input_embeddings().weight


def test_a_warm_up_may_begin_with_another_policy_and_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    tokenizer = tiny.make_tokenizer()
    tiny.save(tiny.make_model(tokenizer, seed=0), tokenizer, tmp_path / "start")
    warmup(
        Lookup(), tmp_path / "out", steps=1, demonstrations=8, batch_size=2, start=tmp_path / "start",
        vocabulary=290,
    )  # fmt: skip
    known, model = tiny.load(tmp_path / "out")
    assert 263 < len(known) <= 290 and model.config.vocab_size == len(known)
    assert len(known.encode("What is in box")) < len("What is in box")

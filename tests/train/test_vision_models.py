"""Models that are shown images: which a name stands for, how they are made, and who is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from colours import COLOURS, Colours, logprobs_of, picture

from agentrl import Env, Task
from agentrl.chat import Chat
from agentrl.chat.vision import Vision, part_of, takes_images
from agentrl.config import TrainConfig, load_config
from agentrl.envs.vision import Vision as VisionEnv
from agentrl.errors import ConfigError, DefinitionError, ModelUnsupported
from agentrl.registry import source_folder
from agentrl.train import models, tiny, tiny_vision, warmup
from agentrl.train.demonstrate import Example
from agentrl.train.fit import fit
from agentrl.train.models import Schooling, find_model
from agentrl.train.resolve import resolve

SPECIAL = [*tiny.SPECIAL_TOKENS, *tiny_vision.TOKENS]


def named(model: str | Path) -> TrainConfig:
    return TrainConfig(env="env", model=str(model))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def seeing(tmp_path: Path) -> Path:
    """A complete model that sees."""
    tokenizer = tiny.make_tokenizer(special=SPECIAL)
    tiny.save(tiny_vision.make_model(tokenizer, seed=0), tokenizer, tmp_path / "seeing")
    tiny_vision.save_processor(tiny_vision.make_processor(), tokenizer, tmp_path / "seeing")
    return tmp_path / "seeing"


def test_a_text_model_is_refused_before_anything_is_made_or_fetched(tmp_path: Path, own_cache: Path) -> None:
    tokenizer = tiny.make_tokenizer()
    tiny.save(tiny.make_model(tokenizer, seed=0), tokenizer, tmp_path / "blind")
    for model in ("embedded", "smollm2", tmp_path / "blind"):
        with pytest.raises(ModelUnsupported, match="colours shows images, and model=.* takes text only"):
            find_model(named(model), Colours())
    assert not own_cache.exists()


def test_a_folder_that_sees_is_taken_and_spoken_to_as_one(seeing: Path) -> None:
    assert find_model(named(seeing), Colours()) == seeing
    assert takes_images(str(seeing))
    chat = Chat.load(str(seeing))
    assert chat.name == "chatml-json"
    assert chat.vision is not None and chat.vision.most_pixels == 112 * 112
    assert sum(parameter.numel() for parameter in tiny.load(seeing)[1].parameters()) < 2_000_000


def test_the_embedded_policy_that_sees_is_made_of_demonstrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SCHOOLING", Schooling(steps=2, demonstrations=6, batch_size=4))
    monkeypatch.setattr(warmup, "VOCABULARY_EPISODES", 4)
    folder = find_model(named("embedded-vl"), Colours())
    assert takes_images(str(folder))
    assert Chat.load(str(folder)).vision is not None
    assert find_model(named("embedded-vl"), Colours()) == folder, "it is kept"


def test_vision_has_one_in_its_folder() -> None:
    env = VisionEnv(kinds=["mosaic"])
    folder = find_model(named("embedded-vl"), env)
    assert folder == source_folder(env) / models.POLICY and takes_images(str(folder))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000


def test_it_is_for_environments_that_say_they_show_images() -> None:
    with pytest.raises(DefinitionError, match="images = True"):
        find_model(named("embedded-vl"), Env(tasks=[Task("?")]))


def test_verl_loads_its_weights_for_good_and_makes_no_critic_of_it(seeing: Path) -> None:
    """With dummy weights the engine's images are silently wrong."""
    composed = resolve(load_config("math", []), model=str(seeing), run="run")
    engine = composed.actor_rollout_ref.rollout
    assert engine.load_format == "auto"
    assert engine.engine_kwargs.vllm.limit_mm_per_prompt == '{"video": 0}'
    with pytest.raises(ConfigError, match="grpo"):
        resolve(load_config("math", ["algorithm.name=ppo"]), model=str(seeing), run="run")


def test_fitting_sees_the_pictures() -> None:
    """The loss of a batch is that of single forward passes, positions and pixels included."""
    tokenizer = tiny.make_tokenizer(special=SPECIAL)
    vision = Vision.of(tokenizer, tiny_vision.make_processor())
    chat = tiny.chat(tokenizer, vision)
    model = tiny_vision.make_model(tokenizer, seed=1)
    rows, expected, counted = [], 0.0, 0
    for shown, text in (
        ([picture(56, 56, COLOURS["red"])], "red"),
        ([picture(112, 112), picture(28, 28, COLOURS["blue"])], "a longer answer"),
        ([], "none"),
    ):
        opening = [*map(part_of, shown), {"type": "text", "text": "?"}]
        said: list[dict[str, Any]] = [{"role": "user", "content": opening}]
        said.append({"role": "assistant", "content": text})
        ids, sampled = chat.render_demonstration(said)
        rows.append(Example(ids, sampled, shown))
        with torch.no_grad():
            found = logprobs_of(model, ids, shown, vision, banned=False)
        expected -= sum(value for value, own in zip(found, sampled[1:], strict=True) if own)
        counted += sum(sampled[1:])
    (loss,) = fit(
        model, rows, vision=vision, steps=1, batch_size=3, learning_rate=1e-3, seed=0,
        progress=lambda step, loss: None,
    )  # fmt: skip
    assert loss == pytest.approx(expected / counted, rel=1e-4)

"""A policy that sees, through the whole stack: warm-up, verl with vLLM, the doctor, evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from colours import COLOURS, Colours, logprobs_of, picture
from PIL import Image as Pillow
from stack_support import Played, log_tail, play, save

from agentrl.chat import Chat
from agentrl.chat.vision import part_of
from agentrl.config import Rollout, TrainConfig, load_config
from agentrl.evaluate import evaluate
from agentrl.events import DoctorReported, EvalFinished
from agentrl.rollout import Sampling
from agentrl.rollout.vllm_policy import VllmPolicy
from agentrl.sandbox import open_sandbox
from agentrl.train import tiny, warmup
from agentrl.train.launch import Training

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

LIMITS = ["rollout.max_turn_tokens=32", "rollout.max_prompt_tokens=64", "rollout.max_trajectory_tokens=128"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Warmed up until it calls the tool and names what it sees there, more often right than wrong."""
    folder = tmp_path_factory.mktemp("model") / "warm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warmup, "VOCABULARY_EPISODES", 16)
        report = warmup.warmup(
            Colours(), folder, steps=150, demonstrations=64, batch_size=16, learning_rate=3e-3
        )
    assert report.tool_rate == 1.0
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Path, Played]:
    """Two steps of GRPO on pictures that a tool returns."""
    folder = tmp_path_factory.mktemp("images") / "run"
    folder.mkdir()
    env = f"{Path(__file__).with_name('colours.py')}:Colours"
    small = ["algorithm.tasks_per_step=4", "algorithm.group_size=4", "eval.tasks=8", "steps=2", *LIMITS]
    config: TrainConfig = load_config(env, small)
    save(folder, config)
    played = play(Training(config, folder, model))
    assert played.status == 0, log_tail(folder)
    return folder, played


def test_the_doctor_passes_with_images(trained: tuple[Path, Played]) -> None:
    folder, played = trained
    assert [report.step for report in played.of(DoctorReported)] == [1, 2]
    certificate = json.loads((folder / "doctor.json").read_text())
    assert certificate["passed"], certificate
    found = {check["name"]: check["detail"] for check in certificate["checks"] if check["step"] == 1}
    assert len(found) == 10
    images = found["placeholders equal the features of the images"].partition("features of ")[2]
    assert int(images.split()[0]) > 16, "pictures of the tool were trained on, beside those of the opening"
    assert "tokens" in found["log-probs agree after images"]


def test_the_images_of_examined_steps_are_in_the_run_folder(trained: tuple[Path, Played]) -> None:
    folder, _ = trained
    files = list((folder / "images").glob("*.png"))
    assert len(files) == 1 + len(COLOURS)
    sizes = set()
    for file in files:
        with Pillow.open(file) as image:
            sizes.add(image.size)
    assert sizes == {(28, 28), (56, 56)}


def test_training_is_framed_by_evaluation(trained: tuple[Path, Played]) -> None:
    before, after = trained[1].of(EvalFinished)
    assert (before.step, after.step, before.episodes) == (0, 2, 8)


@pytest.fixture
def quiet_environment() -> Iterator[None]:
    """The engine's settings go into the environment; take them out again."""
    before = dict(os.environ)
    os.environ["HF_HUB_OFFLINE"] = "1"
    yield
    os.environ.clear()
    os.environ.update(before)


async def test_vllm_sees_what_the_model_sees(model: Path, quiet_environment: None) -> None:
    """Log-probs of the engine are those of a forward pass with these pixels, and not of one with others."""
    chat = Chat.load(str(model))
    assert chat.vision is not None
    shown = [picture(28, 28), picture(56, 56, COLOURS["red"])]
    prompt = chat.prompt([{"role": "user", "content": [*map(part_of, shown), {"type": "text", "text": "?"}]}])
    options = {"dtype": "float32"}
    async with await VllmPolicy.open(
        str(model), memory=0.25, max_tokens=256, vision=chat.vision, options=options
    ) as policy:
        sampling = Sampling(max_tokens=12, banned_token_ids=chat.banned_token_ids, seed=3, temperature=2.0)
        found = await policy.generate(prompt, sampling, episode="a", images=shown)
        env, sandbox = Colours(), open_sandbox()
        async with sandbox:
            limits = Rollout(max_turn_tokens=32, max_prompt_tokens=64, max_trajectory_tokens=128)
            tasks = list(env.tasks("test"))
            scored = await evaluate(env, chat, policy, limits, tasks, sandbox=sandbox, temperature=0.0)
    _, net = tiny.load(model)
    ids = [*prompt, *found.token_ids]
    seen = logprobs_of(net, ids, shown, chat.vision, temperature=2.0)[len(prompt) - 1 :]
    assert found.logprobs == pytest.approx(seen, abs=2e-3)
    others = [shown[0], picture(56, 56, COLOURS["blue"])]
    assert found.logprobs != pytest.approx(
        logprobs_of(net, ids, others, chat.vision, temperature=2.0)[len(prompt) - 1 :], abs=2e-3
    )
    assert scored.success >= 0.9, "greedily it names the colour that it sees"

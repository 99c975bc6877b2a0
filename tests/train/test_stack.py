"""Real runs of the whole stack: verl, Ray, TransferQueue, vLLM, the episode loop and the doctor."""

from __future__ import annotations

import json
import math
from pathlib import Path

import psutil
import pytest
from stack_support import Played, log_tail, make_model, play, prepare, processes

from agentrl.events import (
    CheckpointSaved,
    DoctorReported,
    EpisodeFinished,
    EpisodeVoided,
    EvalFinished,
    Event,
    StepFinished,
    Warned,
)
from agentrl.store import RunFolder
from agentrl.train.export import export

PARTS = ("generate", "tools", "train", "sync", "other", "checkpoint")

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def grpo(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Path, Played]:
    """Three steps of GRPO in which some tasks' machines are down."""
    folder = tmp_path_factory.mktemp("grpo") / "run"
    training = prepare(
        folder, model, "steps=3", "checkpoint.every=1", "rollout.retries=1", "algorithm.minibatches=2"
    )
    played = play(training)
    assert played.status == 0, log_tail(folder)
    return folder, played


def test_the_doctor_passes_the_first_and_the_last_step(grpo: tuple[Path, Played]) -> None:
    folder, played = grpo
    assert [report.step for report in played.of(DoctorReported)] == [1, 3]
    certificate = json.loads((folder / "doctor.json").read_text())
    assert certificate["passed"], certificate
    assert len(certificate["checks"]) == 12


def test_void_episodes_are_retried_counted_and_left_out(grpo: tuple[Path, Played]) -> None:
    _, played = grpo
    voided = [event for event in played.of(EpisodeVoided) if event.final]
    assert voided and all(event.attempt == 2 for event in voided)
    trained = [event for event in voided if event.split == "train"]
    steps = played.of(StepFinished)
    assert 0 < sum(step.metrics["voided"] for step in steps) == len(trained)
    assert {event.group for event in trained} & {event.group for event in played.of(EpisodeFinished)}
    finished = {event.episode for event in played.of(EpisodeFinished)}
    assert not finished & {event.episode for event in voided}


def test_evaluation_frames_the_training(grpo: tuple[Path, Played]) -> None:
    _, played = grpo
    before, after = played.of(EvalFinished)
    assert (before.step, after.step) == (0, 3)
    for event in (before, after):
        void = [e for e in played.of(EpisodeVoided) if e.final and e.split == "test" and e.step == event.step]
        assert event.episodes == 8 - len(void)
        assert 0 <= event.low <= event.success <= event.high <= 1


def test_a_step_is_told_in_plain_numbers(grpo: tuple[Path, Played]) -> None:
    _, played = grpo
    for step in played.of(StepFinished):
        assert all(math.isfinite(value) for value in step.metrics.values())
        parts = [
            step.metrics[f"time/{name}"]
            for name in ("generate", "tools", "train", "sync", "other", "checkpoint")
        ]
        assert sum(parts) == pytest.approx(step.metrics["time/step"], rel=0.05)
        assert 1 <= step.metrics["turns/mean"] <= 2
        assert step.metrics["actor/grad_norm"] > 0


def test_a_checkpoint_exports_to_a_folder_that_transformers_loads(
    grpo: tuple[Path, Played], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, played = grpo
    assert [event.step for event in played.of(CheckpointSaved)] == [1, 2, 3]
    kept = sorted(path.name for path in (folder / "checkpoints").glob("global_step_*"))
    assert kept == ["global_step_2", "global_step_3"]
    export(RunFolder.open(folder), tmp_path / "model")
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token == "<|im_end|>"
    assert sum(p.numel() for p in trained.parameters()) > 100_000


def test_nothing_is_left_running(grpo: tuple[Path, Played]) -> None:
    folder, _ = grpo
    assert processes(folder) == []


def test_ppo_trains_a_critic_against_a_reference_and_reports_a_checkpoint_it_cannot_write(
    tmp_path: Path, model: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder is needed")
    training = prepare(
        tmp_path / "run", model, "steps=2", "algorithm.name=ppo", "algorithm.kl_coefficient=0.01",
        "checkpoint.every=1", f"verl.trainer.default_local_dir={blocked}/checkpoints", "rollout.retries=0",
    )  # fmt: skip
    played = play(training)
    assert played.status == 1
    assert "could not be written" in str(training.failure())
    assert any("step 1 could not be written" in event.message for event in played.of(Warned))
    steps = played.of(StepFinished)
    assert [step.step for step in steps] == [1, 2]
    assert [event.step for event in played.of(EvalFinished)] == [0, 2]
    assert "critic/loss" in steps[0].metrics and "actor/kl_to_reference" in steps[0].metrics
    assert all(report.passed for report in played.of(DoctorReported))
    assert processes(tmp_path / "run") == []


def test_a_killed_engine_ends_the_run_with_a_checkpoint_from_which_it_resumes(
    tmp_path: Path, model: Path
) -> None:
    folder, words = tmp_path / "run", ["steps=400", "rollout.retries=1", "checkpoint.restarts=0"]

    def kill_engine() -> None:
        engines = [p for p in processes(folder) if "VLLM" in " ".join(p.cmdline())]
        assert engines, "the engine's process was not found"
        for engine in engines:
            engine.kill()

    def second_step_ended(event: Event) -> bool:
        return isinstance(event, StepFinished) and event.step == 2

    played = play(prepare(folder, model, *words), second_step_ended, kill_engine)
    assert played.status != 0
    assert played.seconds_after_fault < 120
    assert processes(folder) == []
    saved = played.of(CheckpointSaved)
    assert saved and saved[-1].step >= 2

    resumed = prepare(folder, model, *words)
    played = play(resumed, lambda event: isinstance(event, StepFinished), resumed.interrupt)
    assert played.status == 130
    assert resumed.failure() == "interrupted"
    first = played.of(StepFinished)[0]
    assert first.step == saved[-1].step + 1
    assert played.of(CheckpointSaved)[-1].step >= first.step
    assert psutil.pid_exists(1) and processes(folder) == []

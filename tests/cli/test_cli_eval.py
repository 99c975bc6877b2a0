"""``agentrl eval``: the files and numbers it leaves; once with a scripted engine, once with a real one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest
from typer.testing import CliRunner

from agentrl.cli.main import app
from agentrl.rollout import ScriptedPolicy

pytest.importorskip("transformers")

EXPERT = """
    def expert(self, task, rng):
        call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
        yield {"role": "assistant", "content": "", "tool_calls": [call]}
        yield {"role": "assistant", "content": "Done."}
    @reward(weight=0)
    def even(self, episode):
        return float(int(episode.task.answer) % 2 == 0)
    success = "even"
"""


@pytest.fixture
def environment(folder: Path) -> Path:
    """An environment with an expert that solves every other task, and a folder with a tokenizer."""
    from agentrl.train import tiny

    (folder / "evens.py").write_text(
        (folder / "adding.py").read_text().replace("class Adding", "class Evens") + EXPERT
    )
    tokenizer = tiny.make_tokenizer()
    tiny.save(tiny.make_model(tokenizer, 0), tokenizer, folder / "model")
    return folder


@pytest.fixture
def model_by_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes ``model=`` for a folder; the engine's settings leave the environment again."""
    models: Any = ModuleType("agentrl.train.models")
    models.find_model = lambda config, env, progress: Path(config.model)
    monkeypatch.setitem(sys.modules, "agentrl.train.models", models)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def scripted_engine(
    environment: Path, model_by_path: None, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """The environment's expert in the engine's place; returns what the engine was asked for."""
    asked: list[dict[str, Any]] = []

    class Engine(ScriptedPolicy):
        @classmethod
        async def open(cls, model: str, **options: Any) -> Self:
            from agentrl.chat import Chat

            asked.append({"model": model, **options})
            return cls(Chat.load(model))

        async def close(self) -> None:
            asked.append({"closed": True})

    module: Any = ModuleType("agentrl.rollout.vllm_policy")
    module.VllmPolicy = Engine
    monkeypatch.setitem(sys.modules, "agentrl.rollout.vllm_policy", module)
    return asked


def test_it_measures_and_leaves_a_line_per_episode(
    scripted_engine: list[dict[str, Any]], environment: Path
) -> None:
    words = ["./evens.py", "model=model", "eval.tasks=6", "eval.samples=2", "rollout.max_prompt_tokens=512"]
    result = CliRunner().invoke(app, ["eval", *words])
    assert result.exit_code == 0, result.output
    [run] = environment.glob("runs/*")
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["success"], summary["tasks"], summary["episodes"], summary["void"]) == (0.5, 6, 12, 0)
    assert summary["pass_at"] == {"1": 0.5, "2": 0.5}
    assert summary["low"] < 0.5 < summary["high"]
    lines = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert {(line["position"], line["sample"]) for line in lines} == {
        (p, s) for p in range(6) for s in range(2)
    }
    assert all(line["success"] == (int(line["task"]["answer"]) % 2 == 0) for line in lines)
    assert lines[0]["messages"][-1] == {"role": "assistant", "content": "Done."}
    assert lines[0]["turns"][0]["calls"][0]["observation"]["text"] == "3"
    assert "success: 50.0%" in result.output
    assert "pass@k: @1 50.0%  @2 50.0%" in result.output
    assert "12/12 episodes, solved 50%" in result.output
    asked, closed = scripted_engine
    assert (asked["model"], asked["device"], asked["concurrency"]) == ("model", "cpu", 12)
    assert asked["max_tokens"] == 512 + 256
    assert closed == {"closed": True}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["algorithm.group_size=4", "steps=3"],
            "agentrl eval does not use algorithm, steps; leave them out.",
        ),
        (
            ["algorithm.rollout={name: forced_finish}", "algorithm.name=ppo"],
            "does not use algorithm; leave it",
        ),
        (["algorithm.rollout={name: forced}"], "Did you mean 'forced_finish'"),
        (["--split", "dev"], "a split is train or test"),
        (["rollout.max_turn=3"], "Did you mean 'max_turns'"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(
    scripted_engine: list[dict[str, Any]], environment: Path, words: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, ["eval", "./evens.py", "model=model", *words])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(environment.glob("runs/*"))


@pytest.mark.stack
@pytest.mark.timeout(400)
def test_a_real_engine_plays_the_episodes(environment: Path, model_by_path: None) -> None:
    pytest.importorskip("vllm")
    words = [
        "model=model",
        "eval.tasks=3",
        "eval.samples=2",
        "rollout.max_turns=2",
        "rollout.max_turn_tokens=8",
        "rollout.max_observation_tokens=16",
    ]
    result = CliRunner().invoke(app, ["eval", "./evens.py", *words])
    assert result.exit_code == 0, result.output
    [run] = environment.glob("runs/*")
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["episodes"], summary["void"], summary["samples"]) == (6, 0, 2)
    assert 0 < summary["tokens"] <= 16
    assert len((run / "episodes.jsonl").read_text().splitlines()) == 6


def test_what_an_algorithm_does_to_an_episode_is_done_here_too(
    scripted_engine: list[dict[str, Any]], environment: Path
) -> None:
    """A reserve of all there is shows that the loop was told."""
    control = "algorithm.rollout={name: forced_finish, options: {reserve: 256}}"
    words = ["./evens.py", "model=model", "eval.tasks=1", "rollout.max_trajectory_tokens=256", control]
    result = CliRunner().invoke(app, ["eval", *words])
    assert result.exit_code == 2 and "rollout.max_trajectory_tokens=256 leaves none" in result.stderr

"""Settings: which source wins, and what is said of a setting that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentrl import ConfigError
from agentrl.config import TrainConfig, load_config, parse_overrides, validate

# ---- words


@pytest.mark.parametrize(
    ("word", "tree"),
    [
        ("steps=10", {"steps": 10}),
        ("a.b.c=x", {"a": {"b": {"c": "x"}}}),
        ("lr=1e-4", {"lr": 0.0001}),
        ("lr=3.0e-4", {"lr": 0.0003}),
        ("a=1e5", {"a": 100000.0}),
        ("a=true", {"a": True}),
        ("a=null", {"a": None}),
        ("a=", {"a": None}),
        ("a=[1, b]", {"a": [1, "b"]}),
        ("a={b: 1}", {"a": {"b": 1}}),
        ("a=b=c", {"a": "b=c"}),
        ("a=./file.py:Class", {"a": "./file.py:Class"}),
        ("a='7'", {"a": "7"}),
        ("model=nan", {"model": "nan"}),
        ("model=infinity", {"model": "infinity"}),
        ("verl.actor.optim.lr=0.5", {"verl": {"actor.optim.lr": 0.5}}),
    ],
)
def test_words_are_read_as_yaml(word: str, tree: dict[str, Any]) -> None:
    assert parse_overrides([word]) == tree


def test_words_add_up_and_the_last_wins() -> None:
    words = ["a.b=1", "a.c=2", "a.b=3", "verl.x.y=1", "verl.x.z=2"]
    assert parse_overrides(words) == {"a": {"b": 3, "c": 2}, "verl": {"x.y": 1, "x.z": 2}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["steps"], "'steps' is no setting; write key=value"),
        (["=3"], "'=3' is no setting"),
        (["a=[1"], r"The value of a='\[1' is not valid YAML"),
        (["a=1", "a.b=2"], "'a.b=2': 'a' has a value already and can have no 'b' below it"),
    ],
)
def test_words_that_cannot_be_read(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_overrides(words)


# ---- precedence


TRAIN_YAML = """
all: {steps: 11, algorithm: {tasks_per_step: 6, group_size: 3}}
cpu: {algorithm: {group_size: 4}, rollout: {max_turns: 5}}
cpu-data: {rollout: {max_turns: 6}, seed: 9}
gpu: {steps: 12}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.yaml").write_text(TRAIN_YAML)
    return tmp_path


def shown(config: TrainConfig) -> tuple[int, int, int, int, int]:
    algorithm = config.algorithm
    return config.steps, algorithm.tasks_per_step, algorithm.group_size, config.rollout.max_turns, config.seed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (11, 6, 4, 5, 0)),
        (["data=rows"], (11, 6, 4, 6, 9)),
        (["data=rows", "rollout.max_turns=7", "steps=1"], (1, 6, 4, 7, 9)),
        (["preset=gpu"], (12, 6, 3, 8, 0)),
        (["preset=gpu", "data=rows"], (12, 6, 3, 8, 0)),
    ],
)
def test_preset_then_train_yaml_then_words(
    folder: Path, words: list[str], expected: tuple[int, int, int, int, int]
) -> None:
    assert shown(load_config("env", words, folder=folder)) == expected


def test_what_train_yaml_does_not_set_is_the_presets(folder: Path) -> None:
    bare, own = load_config("env"), load_config("env", folder=folder)
    assert (
        own.rollout.max_turn_tokens
        == bare.rollout.max_turn_tokens
        != TrainConfig(env="e").rollout.max_turn_tokens
    )
    assert (bare.hardware.device, own.hardware.device) == ("cpu", "cpu")
    assert load_config("env", ["preset=gpu"]).hardware.device == "gpu"


def test_a_preset_that_is_unknown() -> None:
    with pytest.raises(ConfigError, match=r"preset=gpus is unknown\. Did you mean 'gpu'"):
        load_config("env", ["preset=gpus"])


@pytest.mark.parametrize("content", ["", "all:\n", "# nothing yet\n", "cpu:\n"])
def test_a_train_yaml_may_be_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.yaml").write_text(content)
    assert load_config("env", folder=tmp_path) == load_config("env")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("all: [", r"train\.yaml is not valid YAML"),
        ("- all", r"train\.yaml must hold a mapping, not list"),
        ("all: 3", r"train\.yaml: 'all' must hold a mapping, not int"),
        ("al: {steps: 3}", r"train\.yaml: there is no preset 'al'\. Did you mean 'all'"),
        ("all: {stepz: 3}", r"There is no setting stepz\. Did you mean 'steps'"),
    ],
)
def test_a_train_yaml_that_cannot_be_used_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "train.yaml").write_text(content)
    with pytest.raises(ConfigError, match=said):
        load_config("env", folder=tmp_path)


# ---- what does not fit


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("stepz=3", r"There is no setting stepz\. Did you mean 'steps'"),
        ("learning_rate=1", r"There is no setting learning_rate\. Did you mean 'algorithm\.learning_rate'\?"),
        ("temperature=1", r"'rollout\.temperature' or 'eval\.temperature'"),
        ("algorithm.gama=1", r"There is no setting algorithm\.gama\. Did you mean 'gamma'"),
        ("rollout.tool_second=1", r"There is no setting rollout\.tool_second\. Did you mean 'tool_seconds'"),
        ("rollout.every=1", r"There is no setting rollout\.every\. .*'eval\.every' or 'checkpoint\.every'"),
        ("hardware.gpu=1", r"There is no setting hardware\.gpu\."),
        ("zzz.like.it=1", r"There is no setting zzz\. Known: "),
        ("steps=many", "steps='many': Input should be a valid integer"),
        ("steps=0", "steps=0: Input should be greater than or equal to 1"),
        ("steps=1.5", "steps=1.5: "),
        ("rollout=3", "rollout=3: Input should be a valid dictionary"),
        ("algorithm.name=grop", "algorithm.name=grop is unknown. Did you mean 'grpo'"),
        ("algorithm.learning_rate=0", "greater than 0"),
        ("rollout.top_p=1.1", "less than or equal to 1"),
        ("algorithm.kl_coefficient=.nan", r"algorithm\.kl_coefficient=nan"),
        ("env_options=3", "env_options=3: Input should be a valid dictionary"),
    ],
)
def test_what_does_not_fit_is_said_with_its_whole_name(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("env", [word])


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("env", ["stepz=3", "seed=x", "rollout.max_turns=0"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert [any(word in line for line in lines) for word in ("stepz", "seed='x'", "rollout.max_turns=0")] == [
        True
    ] * 3


def test_minibatches_must_divide_the_tasks_of_a_step() -> None:
    words = ["algorithm.tasks_per_step=12", "algorithm.minibatches={}"]
    with pytest.raises(
        ConfigError, match=r"algorithm\.minibatches=5 must divide algorithm\.tasks_per_step=12"
    ):
        load_config("env", [word.format(5) for word in words])
    assert load_config("env", [word.format(4) for word in words]).algorithm.minibatches == 4


def test_a_configuration_survives_being_written_down() -> None:
    config = load_config("env", ["verl.a.b=1", "env_options.level=hard", "eval.temperature=0.5"])
    assert validate(config.model_dump(mode="json")) == config


def test_what_the_environment_is_made_with() -> None:
    assert load_config("env").environment_options == {}
    words = ["data=rows", "on_bad_row=skip", "env_options.level=3"]
    assert load_config("env", words).environment_options == {"data": "rows", "on_bad_row": "skip", "level": 3}
    assert load_config("env", [*words, "env_options.data=mine"]).environment_options["data"] == "mine"

"""Presets: complete, readable, changeable by part, and honest about what they are not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from agentrl.algorithms import chosen, differences, load, names
from agentrl.cli.main import app
from agentrl.config import load_config
from agentrl.errors import ConfigError

WANTED = [
    "grpo", "dapo", "dr_grpo", "gspo", "ppo", "rloo", "loop", "areal", "llamarl",
    "asyncflow", "trpo_traj", "dart", "spa", "ui_s1", "webagent_r1", "sapo_swarm", "craft", "spear",
    "archer", "mle_duration", "verirl", "router_r1", "gra", "scalerl", "rlsp", "spo",
]  # fmt: skip


def test_every_published_algorithm_has_a_preset_with_its_source() -> None:
    assert set(names()) == set(WANTED)
    for name in names():
        algorithm = load(name)
        assert algorithm.title and algorithm.summary and "arXiv:" in algorithm.paper


def test_names_that_mean_several_things_say_so() -> None:
    for name in ("sapo_swarm", "trpo_traj", "spo", "webagent_r1"):
        assert load(name).not_to_confuse


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trust": {"clip_lo": 1}}, r"no setting algorithm\.trust\.clip_lo\. Did you mean 'clip_low'"),
        ({"thrust": {}}, r"There is no setting algorithm\.thrust\. Did you mean 'trust'"),
        ({"trust": {"kind": "soft"}}, r"algorithm\.trust\.kind='soft'"),
        ({"kl": {"coefficient": {"start": 1, "end": 0, "untill": 3}}}, r"untill\. Did you mean 'until'"),
        ({"second_advantage": {"weigth": 1}}, r"Did you mean 'weight'"),
        ({"advantage": {"level": "step", "baseline": "critic"}}, "a critic needs no step index"),
        ({"advantage": {"baseline": "critic"}}, r"set critic\.kind"),
        ({"kl": {"coefficient": float("nan")}}, r"algorithm\.kl\.coefficient"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_its_neighbours(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load("grpo", changes)


def test_a_part_goes_before_what_is_short_for_it() -> None:
    words = ["algorithm.clip_low=0.1", "algorithm.gamma=0.9", "algorithm.normalize_by_std=false",
             "algorithm.loss_aggregation=seq-mean-token-mean", "algorithm.trust.clip_low=0.3"]  # fmt: skip
    algorithm = chosen(load_config("env", words).algorithm)
    assert (algorithm.trust.clip_low, algorithm.advantage.gamma) == (0.3, 0.9)
    assert (algorithm.advantage.scale, algorithm.aggregation.kind) == ("none", "sequence")


def test_a_part_can_be_taken_away_and_brought_in() -> None:
    words = [
        "algorithm.name=spear",
        "algorithm.replay=null",
        "algorithm.shaping=null",
        "algorithm.critic.kind=token",
    ]
    algorithm = chosen(load_config("env", ["algorithm.filters.top_share=null", *words]).algorithm)
    assert algorithm.replay is None and algorithm.clip_cov is not None and algorithm.critic is not None


def test_two_algorithms_differ_where_they_differ() -> None:
    assert differences(load("grpo"), load("grpo")) == {}
    assert differences(load("grpo"), load("dapo")) == {
        "trust.dual_clip": (3.0, None),
        "filters.zero_variance": ("keep", "resample"),
    }
    found = differences(load("ppo"), load("archer"))
    assert found["critic.kind"] == ("token", "utterance") and found["critic.options.tau"] == (None, 0.1)


def test_the_command_lists_shows_and_compares() -> None:
    run = CliRunner().invoke
    listed = json.loads(run(app, ["algorithms", "--json"]).output)
    assert [entry["name"] for entry in listed] == names()
    assert "webagent_r1" in run(app, ["algorithms"]).output
    shown = run(app, ["algorithms", "show", "trpo_traj"]).output
    assert "Trust region" in shown and "Inferred" in shown and "inject_success: true" in shown
    assert json.loads(run(app, ["algorithms", "show", "dart", "--json"]).output)["correction"]["cap"] == 1.0
    pairs = json.loads(run(app, ["algorithms", "diff", "grpo", "dapo", "--json"]).output)
    assert pairs["filters.zero_variance"] == {"grpo": "keep", "dapo": "resample"}
    assert "same settings" in run(app, ["algorithms", "diff", "grpo", "grpo"]).output
    wrong = run(app, ["algorithms", "show", "grop"])
    assert wrong.exit_code == 2 and "Did you mean 'grpo'" in wrong.output


def test_choosing_an_algorithm_loads_no_torch() -> None:
    code = (
        "import sys, agentrl.algorithms as a, agentrl.train.algorithm\n"
        "a.load('dapo')\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)

"""Whole simulated runs: modes, staleness, sizes, backpressure, and the figures they were fitted to."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from agentrl.cli.main import app
from agentrl.errors import ConfigError
from agentrl.simulate import MODES, Outcome, compare, load, plot, scenarios, simulate

SMALL = ["engines=4", "steps=3"]


@functools.cache
def outcome(name: str, mode: str, *words: str) -> Outcome:
    return simulate(load(name, words), mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["math", "search", "swe"])
def test_asynchronous_training_is_faster_and_keeps_its_bound(name: str) -> None:
    sync, step_off, asynchronous = (outcome(name, mode, *SMALL) for mode in MODES)
    assert set(sync.ages) == {0} and set(step_off.ages) == {1}
    assert max(asynchronous.ages) <= asynchronous.eta == 4
    assert asynchronous.samples_per_second > 2 * sync.samples_per_second
    for found in (sync, step_off, asynchronous):
        assert 0 < found.efficiency <= 1, "nothing is better than a perfect scheduler"
        assert sum(found.ages.values()) == 3 * load(name, SMALL).groups
        assert 0 < found.engine_busy <= 1 and 0 < found.trainer_busy <= 1


def test_a_run_is_the_same_every_time() -> None:
    words = [*SMALL, "seed=3"]
    first, second = (simulate(load("search", words), "async").to_dict() for _ in range(2))
    for one in (first, second):
        del one["real_seconds"]
    assert first == second
    assert first["samples_per_second"] != outcome("search", "async", *SMALL).samples_per_second


def test_efficiency_is_flat_with_size() -> None:
    small, large = (outcome("search", "async", f"engines={n}", "steps=4").efficiency for n in (8, 32))
    assert large == pytest.approx(small, rel=0.25)


def test_the_laptops_scenario_agrees_with_what_was_measured_there() -> None:
    """Means of whole steps on the real stack, by python -m benchmarks.async_training."""
    assert outcome("laptop", "sync").step_seconds == pytest.approx(16 / 2.53, rel=0.15)
    assert outcome("laptop", "async").step_seconds == pytest.approx(16 / 13.18, rel=0.15)


def test_staleness_can_be_waited_for_or_corrected() -> None:
    tight = [*SMALL, "eta=1"]
    drop, wait, correct = (
        outcome("swe", "async", *tight, f"staleness={policy}") for policy in ("drop", "wait", "correct")
    )
    assert drop.dropped["too old"] > 0 and max(drop.ages) <= 1
    assert not wait.dropped and max(wait.ages) <= 1
    assert not correct.dropped and max(correct.ages) > 1


def test_slow_tools_slow_admission_and_nothing_grows() -> None:
    plenty = outcome("search", "async", *SMALL)
    scarce = outcome("search", "async", *SMALL, "tool_places=1")
    assert scarce.samples_per_second < plenty.samples_per_second
    assert scarce.timeline.most("in_tools") <= 4
    under_way = (scarce.eta + 1) * 4 * 8
    assert scarce.timeline.most("tool_queue") <= under_way, "the first burst comes before there is a load"
    later = scarce.timeline.queues["tool_queue"][len(scarce.timeline.times) // 2 :]
    assert max(later) <= under_way / 2, "then admission waits, not a queue at the tools"


def test_more_may_be_begun_than_is_waited_for() -> None:
    plain, over = outcome("swe", "async", *SMALL), outcome("swe", "async", *SMALL, "over=2")
    assert over.surplus > 0 and over.samples_per_second > 1.1 * plain.samples_per_second


def test_a_workload_that_fits_no_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"27000 do not fit into engine.kv_tokens=1000"):
        load("math", ["engines=2", "engine.kv_tokens=1000"])


def test_compare_is_what_benchmarks_ask() -> None:
    found = json.loads(json.dumps(compare("math", 4, ["steps=2"])))
    assert found["async_over_sync"] > 2 and 0 < found["rollout_efficiency"] <= 1
    assert found["perfect_over_sync"] >= found["async_over_sync"]
    assert found["sync"]["mode"] == "sync" and found["async"]["mode"] == "async"


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'maths'.*math"):
        load("maths")
    with pytest.raises(ConfigError, match=r"workload.tool_second\b.*tool_seconds"):
        load("math", ["workload.tool_second.mean=3"])
    with pytest.raises(ConfigError, match="engines"):
        load("math", ["engines=0"])
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(load("math").model_dump() | {"engines": 3}))
    assert load(str(own), ["eta=2"]).engines == 3
    own.write_text("- a list")
    with pytest.raises(ConfigError, match="mapping"):
        load(str(own))


def test_every_scenario_names_its_sources() -> None:
    assert {"laptop", "math", "search", "swe", "verl-7b"} <= set(scenarios())
    for name in scenarios():
        scenario = load(name)
        assert scenario.about and scenario.sources


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    plot([outcome("laptop", "sync"), outcome("laptop", "async")], tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_a_table_or_json() -> None:
    names = CliRunner().invoke(app, ["simulate"])
    assert names.exit_code == 0 and "swe" in names.output
    small = ["simulate", "laptop", "steps=2", "warmup=1", "mode=async"]
    shown = CliRunner().invoke(app, small)
    assert shown.exit_code == 0 and "of a perfect scheduler" in shown.output
    data = CliRunner().invoke(app, [*small, "--json"])
    [only] = json.loads(data.output)["outcomes"]
    assert only["mode"] == "async" and only["queues"]["in_tools"]["most"] > 0
    wrong = CliRunner().invoke(app, ["simulate", "laptop", "step=2"])
    assert wrong.exit_code == 2 and "steps" in wrong.output

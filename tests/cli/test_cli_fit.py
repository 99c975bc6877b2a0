"""``agentrl fit``: the ceiling of reward against compute, from runs and from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from agentrl.algorithms.scaling import Sigmoid
from agentrl.cli.main import app
from agentrl.config import load_config
from agentrl.events import EvalFinished, FileSink
from agentrl.store import RunFolder

TRUE = Sigmoid(0.3, 0.61, 2.0, 2000.0)
COMPUTE = np.geomspace(200, 1e5, 30)


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["fit", *map(str, words)])


def told(*words: str) -> dict[str, Any]:
    done = call(*words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def make_run(root: Path, curve: Sigmoid, *, steps: int = 24, hours: float = 500.0) -> RunFolder:
    """A run each step of which takes as many hours on the machine; its rewards lie on the curve."""
    run = RunFolder.create(root, "math", load_config("math", [f"runs={root}"]))
    spent = hours * np.arange(steps)
    values = np.where(spent > 0, curve.at(np.maximum(spent, 1e-9)), curve.start)
    run.metrics.write_text(
        "".join(
            json.dumps({"step": i + 1, "time": 0.0, "reward/mean": value, "time/step": hours * 3600}) + "\n"
            for i, value in enumerate(values)
        )
    )
    return run


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("start", [["--start", "0.3"], []])
def test_a_file_gives_the_curve_back(tmp_path: Path, ending: str, start: list[str]) -> None:
    path = tmp_path / f"points.{ending}"
    rows = list(zip(COMPUTE, TRUE.at(COMPUTE), strict=True))
    if ending == "csv":
        path.write_text("compute,reward\n" + "".join(f"{cost},{reward}\n" for cost, reward in rows))
    else:
        path.write_text("".join(json.dumps({"reward": r, "compute": c}) + "\n" for c, r in rows))
    found = told(str(path), *start)
    assert [found["R0"], found["A"], found["B"]] == pytest.approx([0.3, 0.61, 2.0], abs=1e-3)
    assert found["C_mid"] == pytest.approx(2000, rel=1e-3)
    assert (found["points"], found["dropped"], found["dropped_share"]) == (27, 3, 0.1)
    assert found["R0_from"] == ("given" if start else "fitted")
    assert found["A_interval"][0] <= found["A"] + 1e-9 and found["A_interval_from"] == "bootstrap"


def test_a_runs_first_step_is_before_training_and_compute_adds_up(tmp_path: Path) -> None:
    run = make_run(tmp_path, TRUE)
    found = told(str(run.path), "--drop", "0")
    assert (found["R0"], found["R0_from"]) == (pytest.approx(0.3), "measured")
    assert found["A"] == pytest.approx(0.61, abs=1e-3)
    assert found["C_mid"] == pytest.approx(
        2000, rel=1e-2
    )  # hours, of which the first step's count for the second
    assert found["points"] == 23 and found["greatest_compute"] == pytest.approx(23 * 500)
    assert told(run.name, "--runs", str(tmp_path), "--compute", "steps")["C_mid"] == pytest.approx(
        4, rel=1e-2
    )


def test_three_runs_say_between_which_ceilings(tmp_path: Path) -> None:
    ceilings = [0.6, 0.7, 0.65]
    runs = [make_run(tmp_path, Sigmoid(0.3, ceiling, 2.0, 2000.0)) for ceiling in ceilings]
    found = told(*(str(run.path) for run in runs))
    assert found["A_interval"] == pytest.approx([0.6, 0.7], abs=1e-3)
    assert found["A_interval_from"] == "runs" and len(found["A_of_runs"]) == 3
    assert 0.6 < found["A"] < 0.7
    twice = call(str(runs[0].path), str(runs[0].path))
    assert twice.exit_code == 2 and "twice" in twice.stderr


def test_held_out_success_is_read_from_the_events(tmp_path: Path) -> None:
    run = make_run(tmp_path, TRUE)
    sink = FileSink(run.events, "driver")
    for step in range(0, 25, 3):
        value = float(TRUE.at(np.array([500.0 * step]))[0]) if step else 0.3
        sink.emit(EvalFinished(step, value, 0.0, 1.0, episodes=10, reward=value))
    sink.close()
    found = told(str(run.path), "--metric", "eval/success", "--drop", "0")
    assert found["A"] == pytest.approx(0.61, abs=1e-3) and found["points"] == 8


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_it_is_drawn(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / f"fit.{ending}"
    done = call(str(make_run(tmp_path, TRUE).path), "--plot", str(picture))
    assert done.exit_code == 0 and "ceiling" in done.output and "(4%)" not in done.output
    assert picture.read_bytes()[:4] in (b"\x89PNG", b"<?xm")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,0.1\n2,0.2\n3,0.3\n", "there are 3"),
        ("".join(f"{i},{1 / i}\n" for i in range(1, 12)), "does not rise"),
        ("compute,reward\n1,0.1\n2,good\n", "points.csv:3"),
        ("1,0.1\n-2,0.2\n", "points.csv:2"),
        ("", "there are 0"),
    ],
)
def test_points_that_cannot_be_fitted(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(rows)
    done = call(str(path))
    assert done.exit_code == 2 and message in done.stderr


def test_what_is_not_there(tmp_path: Path) -> None:
    run = make_run(tmp_path, TRUE)
    assert "is no run folder" in call("nowhere", "--runs", str(tmp_path)).stderr
    lacking = call(str(run.path), "--metric", "reward/men")
    assert lacking.exit_code == 2 and "reward/mean" in lacking.stderr
    tokens = call(str(run.path), "--compute", "tokens")
    assert tokens.exit_code == 2 and "--compute=steps" in tokens.stderr
    assert call(str(run.path), "--drop", "1").exit_code == 2
    assert call(str(run.path), "--plot", "fit.txt").exit_code == 2


def test_a_curve_that_has_not_bent_is_called_a_guess(tmp_path: Path) -> None:
    run = make_run(tmp_path, Sigmoid(0.1, 0.9, 1.5, 40_000.0))
    assert told(str(run.path))["bent"] is False
    assert "is a guess" in call(str(run.path)).output

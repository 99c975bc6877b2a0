"""``agentrl train``: what it shows, writes and returns, around a training that is replayed."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_training import ROOT, STEPS, FakeTraining
from rich.console import Console
from typer.testing import CliRunner

from agentrl.cli.main import app
from agentrl.cli.train import watch
from agentrl.config import validate
from agentrl.events import DoctorReported, FileSink, StepFinished
from agentrl.store import RunFolder


def only_run(folder: Path) -> Path:
    [run] = folder.glob("runs/*")
    return run


def test_a_run_that_learns_exits_0_and_leaves_its_files(
    folder: Path, fake_launch: type[FakeTraining]
) -> None:
    result = CliRunner().invoke(app, ["train", "./adding.py", "seed=7", f"steps={STEPS}"])
    assert result.exit_code == 0, result.output
    run = only_run(folder)
    assert re.fullmatch(r"\d{8}-\d{6}-adding-[0-9a-f]{4}", run.name)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["outcome"] == "trained"
    assert (summary["success_before"], summary["success_after"]) == (0.125, 0.875)
    assert summary["success_after_interval"] == [0.798, 0.925]
    assert summary["doctor"] == "pass"
    assert summary["seconds"] > 0
    assert (summary["steps"], summary["seed"], summary["episodes"]) == (STEPS, 7, 4 * STEPS)
    assert (summary["episodes_voided"], summary["episodes_truncated"]) == (1, STEPS)
    assert summary["tool_error_share"] == 0.25
    assert summary["versions"]["python"]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
    assert metrics[-1]["success/mean"] == 1.0
    assert "actor/entropy" not in metrics[0]  # a NaN would not be JSON
    assert (run / "learning_curve.png").stat().st_size > 10_000


def test_plain_output_has_a_line_per_stage_step_and_evaluation(
    folder: Path, fake_launch: type[FakeTraining]
) -> None:
    output = CliRunner().invoke(app, ["train", "./adding.py", f"steps={STEPS}"]).output
    assert "\x1b" not in output
    assert len(re.findall(r"\] step \d+/12  success", output)) == STEPS
    assert "starting engine: embedded" in output
    assert "held-out at step 0: success 12.5% [7.5%, 20.1%]" in output
    assert "(generation 50%, tools 10%, training 30%, weight sync 5.0%, other 5.0%)" in output
    assert "episode voided (task task-v): the sandbox went away" in output
    assert "warning: the disk is nearly full" in output
    assert "held-out after:  87.5% [79.8%, 92.5%] of 104 episodes (+75.0 points)" in output
    assert "doctor: pass" in output


def test_the_live_view_shows_the_run_in_a_terminal(folder: Path) -> None:
    config = validate({"env": "adding", "steps": STEPS})
    run = RunFolder.create("runs", "adding", config)
    console = Console(file=io.StringIO(), force_terminal=True, width=110, height=40, record=True)
    assert watch(config, run, FakeTraining(config, run.path, run.path), console, plain=False) == 0
    text = console.export_text()
    for expected in (
        "step 12/12",
        "success",
        "100.0%",
        "▁",
        "█",
        "48 calls · 25% errors",
        "add",
        "1,500 tokens/s",
        "■ generation 50%",
        "1 voided",
        "1 retried",
        "pass",
        "! the disk is nearly full",
        "held-out before",
        "12.5% [7.5%, 20.1%] of 104 episodes",
        "+75.0 points",
        str(run.path),
    ):
        assert expected in text, expected


def test_a_failed_training_says_why_and_where_the_log_is(
    folder: Path, fake_launch: type[FakeTraining]
) -> None:
    fake_launch.behaviour = "fail"
    fake_launch.reason = "The engine ran out of memory. Lower hardware.engine_memory."
    result = CliRunner().invoke(app, ["train", "./adding.py"])
    assert result.exit_code == 1
    assert "The engine ran out of memory. Lower hardware.engine_memory." in result.stderr
    run = only_run(folder)
    assert f"The log: runs/{run.name}/log.txt" in result.stderr
    assert f"agentrl train ./adding.py resume=runs/{run.name}" in result.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["outcome"], summary["doctor"]) == ("failed", "pass")


@pytest.mark.parametrize(
    "certificate",
    [
        {
            "passed": False,
            "checks": [{"name": "masks", "step": 3, "passed": False, "detail": "2 tokens too many"}],
        },
        {
            "passed": True,
            "checks": [{"name": "masks", "step": 3, "passed": False, "detail": "2 tokens too many"}],
        },
    ],
)
def test_a_failed_check_of_the_doctor_fails_the_run(
    folder: Path, fake_launch: type[FakeTraining], certificate: dict[str, object]
) -> None:
    class Sick(FakeTraining):
        def failure(self) -> str | None:
            return None

        def poll(self) -> int | None:
            code = super().poll()
            if code is not None:
                self.run.doctor.write_text(json.dumps(certificate))
            return code

    sys.modules["agentrl.train.launch"].Training = Sick  # type: ignore[attr-defined]
    result = CliRunner().invoke(app, ["train", "./adding.py", f"steps={STEPS}"])
    assert result.exit_code == 1
    assert "doctor: fail masks (step 3): 2 tokens too many" in result.output
    assert json.loads((only_run(folder) / "summary.json").read_text())["doctor"] == "fail"


def test_a_run_the_doctor_never_saw_has_not_passed(folder: Path, fake_launch: type[FakeTraining]) -> None:
    class Unseen(FakeTraining):
        def start(self) -> None:
            sink = FileSink(self.run.events, "driver")
            sink.emit(StepFinished(1, 1, {"success/mean": 1.0}))
            sink.close()

        def poll(self) -> int | None:
            return 0

    sys.modules["agentrl.train.launch"].Training = Unseen  # type: ignore[attr-defined]
    result = CliRunner().invoke(app, ["train", "./adding.py", "steps=1"])
    assert result.exit_code == 1
    assert "doctor: fail the doctor did not look at this run" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["./adding.py", "stepz=3"], "There is no setting stepz. Did you mean 'steps' or 'cluster'?"),
        (["./adding.py", "learning_rate=1e-3"], "Did you mean 'algorithm.learning_rate'?"),
        (["./adding.py", "steps"], "'steps' is no setting; write key=value"),
        (["./adding.py", "steps=none"], "steps='none'"),
        (["nowhere"], "There is no env 'nowhere'"),
        (["./adding.py", "resume=last"], "There is no train run in 'runs' yet."),
        (["./adding.py", "runs=adding.py/x"], "cannot be written"),
    ],
)
def test_a_mistake_of_the_user_is_a_message_and_exit_code_2(
    folder: Path, fake_launch: type[FakeTraining], words: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, ["train", *words])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output + result.stderr


def test_a_run_that_is_gone_on_with_keeps_its_settings_and_history(
    folder: Path, fake_launch: type[FakeTraining]
) -> None:
    assert CliRunner().invoke(app, ["train", "./adding.py", f"steps={STEPS}", "seed=5"]).exit_code == 0
    run = only_run(folder)

    class Further(FakeTraining):
        def start(self) -> None:
            sink = FileSink(self.run.events, "resumed")
            for step in (STEPS, STEPS + 1):  # the last step is taken anew
                sink.emit(StepFinished(step, STEPS + 1, {"success/mean": 0.5}))
            sink.emit(DoctorReported(STEPS, True, {}))
            sink.close()

        def poll(self) -> int | None:
            return 0

    sys.modules["agentrl.train.launch"].Training = Further  # type: ignore[attr-defined]
    result = CliRunner().invoke(app, ["train", "./adding.py", "resume=last", f"steps={STEPS + 1}"])
    assert result.exit_code == 0, result.output
    assert only_run(folder) == run
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(1, STEPS + 2))
    assert metrics[STEPS - 1]["success/mean"] == 0.5
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["seed"], summary["steps"], summary["success_before"]) == (5, STEPS + 1, 0.125)
    other = CliRunner().invoke(app, ["train", "adding:Adding", "resume=last"])
    assert other.exit_code == 2
    assert "trains './adding.py', not 'adding:Adding'" in other.stderr


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a test started; they and what they trained are gone afterwards."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait(timeout=10)
    for file in tmp_path.glob("runs/*/pid"):
        if alive(int(file.read_text())):
            os.kill(int(file.read_text()), signal.SIGKILL)


def start_watched(
    tmp_path: Path, behaviour: str, started: list[subprocess.Popen[str]]
) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        str(Path(__file__).parent / "watched.py"),
        str(tmp_path / "runs"),
        behaviour,
        "plain",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    started.append(process)
    assert process.stdout is not None
    for line in process.stdout:
        if "step 4/" in line:
            return process
    raise AssertionError("the training never took its steps")


def child_of(tmp_path: Path) -> int:
    return int((only_run(tmp_path) / "pid").read_text())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_ctrl_c_saves_and_ends(
    tmp_path: Path, watched: list[subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = start_watched(tmp_path, "hang", watched)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted: saving a checkpoint, then ending." in output
    assert "checkpoint at step 5: checkpoints/global_step_5" in output
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert (summary["outcome"], summary["success_after"]) == ("interrupted", None)
    assert not alive(child_of(tmp_path))


@pytest.mark.timeout(60)
def test_the_second_ctrl_c_ends_a_training_that_does_not_listen(
    tmp_path: Path, watched: list[subprocess.Popen[str]]
) -> None:
    process = start_watched(tmp_path, "stubborn", watched)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert any("Interrupted" in line for line in process.stdout)
    assert alive(child_of(tmp_path))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Ending at once." in output
    assert not alive(child_of(tmp_path))


@pytest.mark.timeout(60)
def test_a_training_does_not_outlive_a_reader_that_went_away(
    tmp_path: Path, watched: list[subprocess.Popen[str]]
) -> None:
    process = start_watched(tmp_path, "stubborn", watched)
    assert process.stdout is not None
    process.stdout.close()
    FileSink(only_run(tmp_path) / "events", "more").emit(DoctorReported(2, True, {}))
    process.wait(timeout=30)
    deadline = time.monotonic() + 10
    while alive(child_of(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child_of(tmp_path))

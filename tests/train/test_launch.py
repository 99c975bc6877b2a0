"""Starting a run and ending it without remains: what is written first, and whom the end sweeps away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from omegaconf import OmegaConf

from agentrl import ConfigError, DataError
from agentrl.config import load_config, validate
from agentrl.events import EventReader, Warned
from agentrl.train.apart import RUN_VARIABLE
from agentrl.train.failure import FILE, ProcessLost, RunStopped, write_failure
from agentrl.train.launch import Training

ENV = """
from agentrl import Env, Task

class Small(Env):
    def __init__(self, size: int = 9) -> None:
        super().__init__(tasks=[Task(f"Task {i}") for i in range(size)])
"""

DRIVER = """#!/bin/sh
# Stands for the driver: it leaves a process of its own behind, as Ray does.
echo "$@ with $MARKER and $AGENTRL_RUN"
sleep 600 &
echo $! > {folder}/child
{then}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "small.py").write_text(ENV)
    return folder


def training(run: Path, *words: str) -> Training:
    return Training(load_config(str(run.parent / "small.py"), words), run, run.parent)


# ---- what is written before the start


def test_everything_the_processes_read_is_in_the_folder(run: Path) -> None:
    write_failure(run, ConfigError("of the time before"))
    made = training(run, "algorithm.tasks_per_step=20", "eval.tasks=1", "seed=5")
    made.prepare()
    assert validate(yaml.safe_load((run / "config.yaml").read_text())) == made.config
    assert OmegaConf.load(run / "verl.yaml").data.seed == 5
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_metadata(run / "train.parquet").num_rows == 24
    assert parquet.read_metadata(run / "test.parquet").num_rows == 1
    assert (run / "agent_loop.yaml").is_file()
    assert not (run / FILE).exists()


def test_without_room_nothing_is_begun(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(total=1 << 40, used=(1 << 40) - (100 << 20), free=100 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: full)
    with pytest.raises(ConfigError, match=r"Only 100 MB are free for .*500 MB.*runs="):
        training(run).prepare()
    assert list(run.iterdir()) == []


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        ("algorithm.curriculum={name: tiers, options: {bounds: [3]}}", "metadata 'length'"),
        ("algorithm.curriculum={name: tires}", "Did you mean 'tiers'"),
        ("algorithm.rollout={name: forced_finish, options: {reserv: 1}}", "Did you mean 'reserve'"),
        ("algorithm.name=archer", "warmup=20 leaves the policy as it is"),
    ],
)
def test_parts_that_do_not_fit_stop_before_the_start(run: Path, algorithm: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        training(run, algorithm).start()
    assert not (run / "verl.yaml").exists() and not (run / "log.txt").exists()


def test_an_environment_without_tasks_stops_before_the_start(run: Path) -> None:
    with pytest.raises(DataError, match="no tasks in its 'train' split"):
        training(run, "env_options.size=0").prepare()


def test_every_process_of_the_run_is_marked(run: Path) -> None:
    assert training(run).environment()[RUN_VARIABLE] == str(run.resolve())
    gpu = training(run, "preset=gpu").environment()
    assert gpu[RUN_VARIABLE] == str(run.resolve()) and "VLLM_CPU_KVCACHE_SPACE" not in gpu
    assert training(run, "hardware.engine_memory=0.01").environment()["VLLM_CPU_KVCACHE_SPACE"] == "1"


# ---- processes


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes that would sleep for long, and ends what is left of them."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(**variables: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sleep", "600"], env={"PATH": os.environ["PATH"], **variables})
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_the_sweep_ends_what_carries_the_runs_mark_and_nothing_else(run: Path, start: Start) -> None:
    mark = str(run.resolve())
    ours = [start(**{RUN_VARIABLE: mark}), start(**{RUN_VARIABLE: mark, "OTHER": "1"})]
    others = [start(), start(**{RUN_VARIABLE: mark + "2"}), start(OTHER=mark)]
    training(run).kill()
    assert all(gone(process.pid) for process in ours)
    assert [process.poll() for process in others] == [None] * 3


def test_the_sweep_spares_the_process_that_sweeps(run: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from agentrl.config import TrainConfig;"
        "from agentrl.train.launch import Training;"
        "Training(TrainConfig(env='x'), Path(sys.argv[1]), Path('m')).kill(); print('alive')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        env={**os.environ, RUN_VARIABLE: str(run.resolve())},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_a_process_that_ends_while_it_is_looked_at_is_no_error(
    run: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = start(**{RUN_VARIABLE: str(run.resolve())})
    read = psutil.Process.environ

    def end_after_reading(process: psutil.Process) -> dict[str, str]:
        variables: dict[str, str] = read(process)
        if process.pid == marked.pid:
            marked.kill()
            marked.wait()
        return variables

    monkeypatch.setattr(psutil.Process, "environ", end_after_reading)
    training(run).kill()
    assert marked.poll() == -signal.SIGKILL


class Unprepared(Training):
    """Only the processes are looked at here."""

    def prepare(self) -> None:
        return


@pytest.fixture
def begun(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Training]]:
    """Starts a training whose driver is a script that ends with the given command."""
    made: list[Training] = []

    def begin(then: str) -> Training:
        driver = run.parent / "driver"
        driver.write_text(DRIVER.format(folder=run, then=then))
        driver.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(driver))
        monkeypatch.setenv("MARKER", "what was inherited")
        made.append(Unprepared(load_config("small.py"), run, run.parent))
        made[0].start()
        wait_for(lambda: (run / "child").is_file() and bool((run / "child").read_text()))
        return made[0]

    yield begin
    for training in made:
        training.kill()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def child(run: Path) -> int:
    return int((run / "child").read_text())


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_an_end_is_reported_with_its_status_and_leaves_nothing_behind(
    run: Path, begun: Callable[[str], Training]
) -> None:
    made = begun("exit 3")
    wait_for(lambda: made.poll() is not None)
    assert made.poll() == 3
    assert gone(child(run))
    failure = made.failure()
    assert failure is not None and "status 3 and left no reason" in failure
    write_failure(run, ConfigError("the reason"))
    assert made.failure() == "the reason"
    expected = f"-m agentrl.train.driver {run.resolve()} with what was inherited and {run.resolve()}\n"
    assert (run / "log.txt").read_text() == expected


def test_a_training_that_ended_well_has_no_failure(begun: Callable[[str], Training]) -> None:
    made = begun("exit 0")
    wait_for(lambda: made.poll() is not None)
    assert (made.poll(), made.failure()) == (0, None)


def test_an_interrupt_reaches_the_driver_alone(run: Path, begun: Callable[[str], Training]) -> None:
    made = begun("trap 'exit 7' INT; while :; do sleep 0.05; done")
    assert made.poll() is None
    assert not gone(child(run))
    wait_for(lambda: made.interrupt() is None and made.poll() is not None)
    assert made.poll() == 7
    made.interrupt()


def test_a_kill_ends_the_driver_and_what_it_started(run: Path, begun: Callable[[str], Training]) -> None:
    made = begun("trap '' INT TERM; while :; do sleep 0.05; done")
    assert made.poll() is None and not gone(child(run))
    made.kill()
    assert made.poll() == -signal.SIGKILL
    assert gone(child(run))


def test_temporary_files_of_a_run_go_with_it(run: Path, begun: Callable[[str], Training]) -> None:
    made = begun(f"echo $TMPDIR > {run}/where; touch $TMPDIR/socket; touch {run}/made; sleep 600")
    wait_for(lambda: (run / "made").is_file())
    folder = Path((run / "where").read_text().strip())
    assert (folder / "socket").is_file()
    made.kill()
    assert not folder.exists()


def test_a_session_of_its_own_keeps_the_terminals_signals_away(
    run: Path, begun: Callable[[str], Training]
) -> None:
    begun("sleep 600")
    assert os.getsid(child(run)) != os.getsid(0)


COUNT = "echo x >> {run}/starts; if [ $(wc -l < {run}/starts) -gt {times} ]; then exit 0; fi; {end}"


@pytest.mark.parametrize(
    ("times", "status"), [(2, 0), (3, -signal.SIGKILL)], ids=["within the limit", "once too often"]
)
def test_a_killed_driver_is_started_again_from_its_checkpoint(
    run: Path, begun: Callable[[str], Training], times: int, status: int
) -> None:
    made = begun(COUNT.format(run=run, times=times, end="kill -9 $$"))
    wait_for(lambda: made.poll() is not None)
    assert made.poll() == status
    assert len((run / "starts").read_text().splitlines()) == 3  # checkpoint.restarts=2
    told = [event.message for event in EventReader(run / "events").poll() if isinstance(event, Warned)]
    assert len(told) == 2 and "status -9" in told[0] and "2 of checkpoint.restarts=2" in told[1]


@pytest.mark.parametrize(
    ("problem", "starts"),
    [(ProcessLost("a worker died"), 3), (RunStopped("interrupted"), 1), (ConfigError("wrong"), 1)],
)
def test_only_a_lost_process_is_a_reason_to_go_on(
    run: Path, begun: Callable[[str], Training], problem: Exception, starts: int
) -> None:
    write_failure(run, problem)  # what prepare() would remove before the next start
    made = begun(COUNT.format(run=run, times=9, end="exit 1"))
    wait_for(lambda: made.poll() is not None)
    assert made.poll() == 1
    assert len((run / "starts").read_text().splitlines()) == starts

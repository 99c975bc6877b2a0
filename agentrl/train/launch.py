"""Starting a training run as a process group of its own, and ending it without remains."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from omegaconf import OmegaConf

from agentrl.chat.vision import takes_images
from agentrl.config import TrainConfig
from agentrl.errors import ConfigError
from agentrl.events import FileSink, Warned
from agentrl.registry import find_env
from agentrl.rollout.control import check_control
from agentrl.scoring import grouped
from agentrl.terms import Shape, Term
from agentrl.train import cpu
from agentrl.train.agent_loop_file import write_agent_loop_file
from agentrl.train.algorithm import Plan, plan
from agentrl.train.apart import RUN_VARIABLE
from agentrl.train.checkpoints import clear_unsealed
from agentrl.train.curriculum import Draws, chooses
from agentrl.train.dataset import read_tasks, write_tasks
from agentrl.train.failure import FILE, RECOVERABLE, read_failure
from agentrl.train.improve import check_improve
from agentrl.train.resolve import resolve
from agentrl.train.runtime import GIVEN_VARIABLES
from agentrl.train.shaping import shape_of
from agentrl.train.swarm_settings import check_shared
from agentrl.train.utterance_settings import check_fresh

MINIMUM_FREE_BYTES = 500 << 20


class Training:
    """One training run.

    Args:
        config: its settings.
        folder: its run folder, which exists.
        model: folder of the policy to start from.
    """

    def __init__(self, config: TrainConfig, folder: Path, model: Path) -> None:
        self.config, self.folder, self.model = config, folder.resolve(), model
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: Path | None = None
        self._restarts = 0
        self._told_to_end = False

    def prepare(self) -> None:
        """Write what the run's processes read: settings, tasks and verl's configuration.

        Raises:
            ConfigError: a setting does not fit, or there is no room for the run.
            DataError: tasks cannot be read.
        """
        free = shutil.disk_usage(self.folder).free
        if free < MINIMUM_FREE_BYTES:
            raise ConfigError(
                f"Only {free >> 20} MB are free for {self.folder}; a run needs "
                f"{MINIMUM_FREE_BYTES >> 20} MB. "
                "Make room, or name another folder with runs=."
            )
        settings = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
        (self.folder / "config.yaml").write_text(settings)
        env = find_env(self.config.env, self.config.environment_options)
        carried_out, minimum = plan(self.config.algorithm), self.config.algorithm.tasks_per_step
        check_control(carried_out.control, env)
        check_improve(carried_out.algorithm, env)
        check_shared(carried_out, self.config, env)
        shape = shape_of(carried_out.shaping, env, self.config.steps)  # refuses rewards that do not fit
        _check_over(self.config, env.own_rewards(), shape)
        _check_warmup(carried_out, self.config.steps)
        check_fresh(carried_out.algorithm, carried_out.utterance, self.config.mode)
        write_tasks(env, self.folder, test_limit=self.config.eval.tasks, train_minimum=minimum)
        if chooses(carried_out.algorithm):  # tells now what does not fit the tasks
            tasks = read_tasks(self.folder)
            Draws.of(carried_out.algorithm, tasks, steps=self.config.steps, seed=self.config.seed)
        write_agent_loop_file(self.folder)
        composed = resolve(self.config, model=str(self.model), run=str(self.folder))
        OmegaConf.save(composed, self.folder / "verl.yaml")
        (self.folder / FILE).unlink(missing_ok=True)

    def start(self) -> None:
        """Prepare the run and start its driver, in a session of its own."""
        self.prepare()
        log = (self.folder / "log.txt").open("ab")
        self._scratch = Path(tempfile.mkdtemp(prefix="agentrl-"))
        # Without bytecode files each of the run's processes would compile hundreds of modules anew.
        inherited = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        given = self.environment()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agentrl.train.driver", str(self.folder)],
            env={**inherited, **given, GIVEN_VARIABLES: ",".join(given), **self._temporary()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()

    def _temporary(self) -> dict[str, str]:
        """Where the run's processes put sockets and locks that nobody removes who is killed.

        Ray stays where it was: its logs outlive the run, and the paths of its sockets must be short.
        """
        system = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
        return {"TMPDIR": str(self._scratch), "RAY_TMPDIR": system}

    def environment(self) -> dict[str, str]:
        """Variables for every process of the run."""
        common = {
            RUN_VARIABLE: str(self.folder),
            "TOKENIZERS_PARALLELISM": "false",
            "HYDRA_FULL_ERROR": "1",
            "PYTHONUNBUFFERED": "1",
            "RAY_DEDUP_LOGS": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "VERL_LOGGING_LEVEL": "WARN",
            "VLLM_LOGGING_LEVEL": "WARNING",
        }
        if not self.config.cluster:
            # Ray's own choice for a cluster of its own; the zygote has to know before Ray makes it.
            common["RAY_AUTH_MODE"] = os.environ.get("RAY_AUTH_MODE", "token")
        if self.config.hardware.device != "cpu":
            return common
        carried_out = plan(self.config.algorithm)
        wanted = {
            "reference": carried_out.has_reference,
            "critic": carried_out.has_critic,
            "images": takes_images(str(self.model)),
        }
        roles = [name for name, is_wanted in wanted.items() if is_wanted]
        cache = {"VLLM_CPU_KVCACHE_SPACE": str(max(1, round(self.config.hardware.engine_memory)))}
        return common | cpu.environment(os.cpu_count() or 1, roles) | cache

    def poll(self) -> int | None:
        """The driver's exit status, or ``None`` while it runs; the end sweeps what is left.

        Where the driver was killed, or lost a process that it cannot do without, the run is started
        again from its last checkpoint, ``checkpoint.restarts`` times.
        """
        assert self._process is not None, "start() comes first"
        status = self._process.poll()
        if status is None:
            return None
        self._sweep()
        if status == 0 or self._told_to_end or self._restarts >= self.config.checkpoint.restarts:
            return status
        record = read_failure(self.folder)
        if record["kind"] not in RECOVERABLE if record else status > 0:
            return status
        self._restarts += 1
        step = clear_unsealed(self.folder / "checkpoints")
        where = "begins anew, without a checkpoint" if step is None else "goes on from its last checkpoint"
        count = f"({self._restarts} of checkpoint.restarts={self.config.checkpoint.restarts})"
        behind = "" if step is None else f", behind step {step}"
        self._tell(f"{self.failure()} The run {where} {count}{behind}.")
        self.start()
        return None

    def _tell(self, message: str) -> None:
        sink = FileSink(self.folder / "events", "launcher")
        sink.emit(Warned(message))
        sink.close()

    def interrupt(self) -> None:
        """Ask the run to keep a checkpoint of its last finished step and end."""
        self._told_to_end = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End the run at once, with every process it started."""
        self._told_to_end = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._sweep()

    def failure(self) -> str | None:
        """Why the run ended early, for a person to read; ``None`` if it did not."""
        record = read_failure(self.folder)
        if record is not None:
            return record["message"]
        if self._process is not None and self._process.poll():
            return f"The driver ended with status {self._process.returncode} and left no reason; see the log."
        return None

    def _sweep(self) -> None:
        """End every process that carries the run's variable, Ray's and vLLM's too; remove what they left."""
        deadline = time.monotonic() + 10
        while (left := self._processes()) and time.monotonic() < deadline:
            for process in left:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(left, timeout=2)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid == os.getpid() or process.environ().get(RUN_VARIABLE) != str(self.folder):
                    continue
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:  # it ended meanwhile, or belongs to somebody else
                continue
        return found


def _check_warmup(carried_out: Plan, steps: int) -> None:
    utterance = carried_out.utterance
    if utterance is not None and utterance.warmup >= steps:
        raise ConfigError(
            f"algorithm.critic.options.warmup={utterance.warmup} leaves the policy as it is in all of "
            f"steps={steps}. Train for more steps, or set a shorter warm-up."
        )


def _check_over(config: TrainConfig, own: Sequence[Term], shape: Shape | None) -> None:
    if config.algorithm.over and grouped(own if shape is None else [*own, *shape(own)]):
        raise ConfigError(
            f"algorithm.over={config.algorithm.over} breaks off the last episodes of a group, and a reward "
            f"of environment {config.env} or of the algorithm compares all. Use algorithm.over=0."
        )


def read_certificate(folder: Path) -> dict[str, Any] | None:
    """The run's ``doctor.json``, or ``None`` before its first step ended."""
    path = folder / "doctor.json"
    return json.loads(path.read_text()) if path.is_file() else None

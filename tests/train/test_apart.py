"""Two runs on one machine do not meet: each has sockets of its own for its weight updates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentrl.train.apart import RUN_VARIABLE

SOCKET = """
import os
from types import SimpleNamespace
import ray
from verl.workers.rollout.vllm_rollout import vllm_rollout
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

ray.is_initialized = lambda: True
job = ray.runtime_context.RuntimeContext(SimpleNamespace(current_job_id=ray.JobID.from_int(1)))
ray.get_runtime_context = lambda: job
assert ray.get_runtime_context().get_job_id() == "01000000", "Ray's own name of it, for everybody else"
# As verl's server has it for the process of its engine.
told = {"__name__": "verl.workers.rollout.vllm_rollout.vllm_async_server", "ray": ray}
exec("job = ray.get_runtime_context().get_job_id()", told)
os.environ["VERL_RAY_JOB_ID"] = told["job"]
engine = SimpleNamespace(local_rank=0, model_runner=SimpleNamespace(vllm_config=None))
print(vLLMColocateWorkerExtension._get_zmq_handle(engine))
"""


def socket(run: Path) -> str:
    """Where an engine of a run waits for weights."""
    variables = {**os.environ, RUN_VARIABLE: str(run), "VERL_PLATFORM": "cpu"}
    command = [sys.executable, "-c", SOCKET]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.timeout(300)
def test_the_engines_of_two_runs_wait_at_sockets_of_their_own(tmp_path: Path) -> None:
    one, other = socket(tmp_path / "one"), socket(tmp_path / "other")
    assert one != other
    assert all(name.startswith("ipc:///tmp/rl-colocate-zmq-01000000-") for name in (one, other))
    assert all(len(name) < 100 for name in (one, other)), "the path of a socket has to be short"

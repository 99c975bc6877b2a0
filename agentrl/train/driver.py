"""The process that trains: starts Ray, TransferQueue and verl's workers, and leaves nothing behind.

Run as ``python -m agentrl.train.driver <run folder>`` by :class:`agentrl.train.launch.Training`.
verl would put its trainer into one more Ray process; here the trainer is this process.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl.errors import UsageError
from agentrl.events import StageStarted, Warned
from agentrl.train.failure import ProcessLost, RunStopped, read_failure, write_failure
from agentrl.train.runtime import GIVEN_VARIABLES, Runtime, load_runtime

if TYPE_CHECKING:
    from agentrl.train.trainer import AgentTrainer
    from agentrl.train.watch import Watch
    from agentrl.train.zygote import Zygote

logger = logging.getLogger(__name__)

EXIT_STOPPED, EXIT_FAILED = 130, 1
RESCUE_SECONDS = 60.0
LATE_SECONDS = {"alone": 5.0, "cluster": 75.0}
"""How long after an error of the trainer's its reason may be known: Ray takes a minute to miss a machine."""
PR_SET_PDEATHSIG = 1


def main(folder: Path) -> int:
    """Train the run; returns the exit status."""
    _die_with_parent()
    runtime = load_runtime(folder, role="driver")
    signal.signal(signal.SIGINT, lambda *_: write_failure(folder, RunStopped("interrupted")))
    signal.signal(signal.SIGTERM, lambda *_: write_failure(folder, RunStopped("terminated")))
    try:
        _train(folder, runtime)
    except RunStopped as problem:
        logger.warning("run stopped: %s", problem)
        return EXIT_STOPPED
    except BaseException as problem:
        logger.exception("training failed")
        write_failure(folder, problem)
        return EXIT_FAILED
    finally:
        runtime.events.close()
    return 0


def _die_with_parent() -> None:
    """Be told to stop, as by Ctrl-C, when the launcher dies without a word."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _train(folder: Path, runtime: Runtime) -> None:
    import ray
    from omegaconf import OmegaConf

    from agentrl.train.resolve import check

    composed = OmegaConf.load(folder / "verl.yaml")
    with ExitStack() as opened:
        runtime.events.emit(StageStarted("starting Ray"))
        settings = _ray_settings(runtime, composed)
        if runtime.config.hardware.device == "cpu" and not runtime.config.cluster:
            from agentrl.train.zygote import Zygote

            sockets = Path(tempfile.mkdtemp(prefix="zygote-"))
            zygote = opened.enter_context(Zygote(sockets, folder / "python"))
            _watch_zygote(zygote, folder, runtime)
            settings["runtime_env"]["py_executable"] = shlex.quote(str(zygote.program))
        ray.init(**settings)
        opened.callback(ray.shutdown)
        if runtime.config.cluster:
            from agentrl.train.devices import await_devices, await_queue

            await_queue(runtime.config, runtime.events)
            await_devices(runtime.config, runtime.events)
        ray.remote(num_cpus=0)(_nothing).remote()  # the first worker has the zygote import the rest
        runtime.events.emit(StageStarted("loading verl"))
        import transfer_queue

        from agentrl.train.cpu.plugin import require
        from agentrl.train.watch import Engine, Rollout
        from agentrl.train.workers import EpisodeManager

        require()
        check(composed)
        OmegaConf.resolve(composed)
        composed.transfer_queue.enable = True
        transfer_queue.init(composed.transfer_queue)
        if runtime.config.cluster:
            from agentrl.train.devices import check_queue

            check_queue(runtime.config)
        opened.callback(transfer_queue.close)
        runtime.events.emit(StageStarted("starting engine", "policy, inference engine and rollout workers"))
        if runtime.config.cluster:  # rollout workers may be on other machines
            composed.trainer.v1.sampler.sampler_kwargs.host = ray.util.get_node_ip_address().strip("[]")
        with _watched(folder, runtime) as watch:
            trainer = _trainer_class(runtime.config.mode)(composed, runtime, folder)
            trainer.init()
            manager = EpisodeManager.create(
                config=composed,
                llm_client=trainer.get_llm_client(),
                teacher_client=trainer.get_teacher_client(),
                reward_loop_worker_handles=trainer.get_reward_handles(),
            )
            hardware = runtime.config.hardware
            for server in trainer.engines():
                watch.add(Engine(server, hardware.engine_seconds))
            for worker in manager.agent_loop_workers:
                watch.add(Rollout(worker, hardware.worker_seconds))
            trainer.fit(manager)


def _nothing() -> None:
    """What a worker does that is only to be started."""


def _trainer_class(mode: str) -> type[AgentTrainer]:
    if mode == "sync":
        from agentrl.train.trainer import SyncTrainer

        return SyncTrainer
    from agentrl.train.async_trainer import AsyncTrainer

    return AsyncTrainer


def _ray_settings(runtime: Runtime, composed: Any) -> dict[str, Any]:
    """Arguments of ``ray.init``: the cluster asked for, or one of our own, with verl's environment."""
    from omegaconf import OmegaConf

    settings: dict[str, Any] = dict(OmegaConf.to_container(composed.ray_kwargs.ray_init, resolve=True))
    if runtime.config.cluster:
        for local_only in ("num_cpus", "num_gpus", "include_dashboard"):
            settings.pop(local_only, None)
        settings["address"] = runtime.config.cluster
    else:
        # Ray would join whatever cluster runs on this machine, a tool server's for one.
        settings["address"] = "local"
    variables = {"TRANSFER_QUEUE_ENABLE": "1", "TOKENIZERS_PARALLELISM": "false", "NCCL_DEBUG": "WARN"}
    # A cluster's nodes were there before the run; processes of our own Ray inherit all variables.
    given = os.environ.get(GIVEN_VARIABLES, "").split(",") if runtime.config.cluster else ()
    settings["runtime_env"] = {
        "env_vars": {**{name: os.environ[name] for name in given if name in os.environ}, **variables}
    }
    settings["logging_level"] = logging.WARNING
    return {key: value for key, value in settings.items() if value is not None}


def _watch_zygote(zygote: Zygote, folder: Path, runtime: Runtime) -> None:
    """End the run with the process that its workers are forked from: Ray would ask for ever."""

    def watch() -> None:
        if zygote.lost():
            problem = ProcessLost(
                "The process that starts the run's workers died. Its log is in the run's log; could it not "
                "import what they need, or was it out of memory?"
            )
            write_failure(folder, problem)
            runtime.events.emit(Warned(str(problem)))
            os._exit(EXIT_FAILED)

    threading.Thread(target=watch, name="watch-zygote", daemon=True).start()


@contextmanager
def _watched(folder: Path, runtime: Runtime) -> Iterator[Watch]:
    """Notice what dies or is stuck.

    The trainer stops at its next look at the failure; where it hangs in a call to what was lost, this process
    ends itself after a minute, and the launcher removes what is left.
    """
    from agentrl.train.watch import Actors, Watch

    def tell(message: str) -> None:
        if read_failure(folder) is None:
            write_failure(folder, ProcessLost(message))
            runtime.events.emit(Warned(message))

    with Watch([Actors()], tell, lambda: os._exit(EXIT_FAILED), RESCUE_SECONDS) as watch:
        try:
            yield watch
        except (RunStopped, UsageError):
            raise
        except Exception:
            watch.settle(LATE_SECONDS["cluster" if runtime.config.cluster else "alone"])
            raise


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    sys.exit(main(Path(sys.argv[1])))

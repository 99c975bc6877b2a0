"""Waiting until a cluster has what a run asks for: verl would fail, wait for ever, or join another run."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from agentrl.config import Hardware, TrainConfig
from agentrl.errors import InfrastructureError
from agentrl.events import FileSink, StageStarted

TOLD_SECONDS = 5.0
"""After so long the run says that it waits."""

QUEUE_SECONDS = 0.5
"""Between two looks for another run's."""

FREED_SECONDS = 30.0
"""For Ray to count what was only reserved as free again."""

TRAINER_CPUS, ENGINE_CPUS = 3, 2
"""What verl asks for beside each GPU of a trainer and of an engine that is apart from it."""

QUEUE = {"name": "TransferQueueController", "namespace": "transfer_queue"}
"""Of TransferQueue's controller in every run: a second one on the cluster would take it for its own."""

Bundle = dict[str, float]


def wanted(hardware: Hardware, *, apart: bool) -> list[list[Bundle]]:
    """What a run reserves, as verl does: lists of what has to lie together on one machine.

    Args:
        hardware: the machines that it asks for.
        apart: whether the engines have GPUs of their own.
    """
    trainer = [[{"CPU": TRAINER_CPUS, "GPU": 1.0}] * hardware.gpus_per_node] * hardware.nodes
    if not apart:
        return trainer
    together = min(hardware.engine_gpus_per_node, hardware.tensor_parallel)
    parts = hardware.engine_nodes * hardware.engine_gpus_per_node // together
    return [*trainer, *[[{"CPU": ENGINE_CPUS, "GPU": 1.0}] * together] * parts]


def await_devices(config: TrainConfig, events: FileSink) -> None:
    """Wait until the cluster can hold the run; a run that was gone on with may have lost a machine.

    Raises:
        InfrastructureError: it could not within ``hardware.cluster_seconds``.
    """
    seconds = config.hardware.cluster_seconds
    parts = wanted(config.hardware, apart=config.mode != "sync")
    reserved = [placement_group(part, strategy="STRICT_PACK") for part in parts]
    try:
        if not _placed(reserved, min(TOLD_SECONDS, seconds)):
            gpus = sum(len(part) for part in parts)
            asked = f"{gpus} GPUs, {max(map(len, parts))} of them on one machine, and CPUs beside them"
            events.emit(StageStarted("waiting for machines", f"the cluster has no room for {asked}"))
            if not _placed(reserved, seconds - TOLD_SECONDS):
                raise InfrastructureError(
                    f"For {seconds:g} s (hardware.cluster_seconds) the Ray cluster had no room for {asked}. "
                    f"It has {_shown(ray.cluster_resources())}; free: {_shown(ray.available_resources())}. "
                    "Start more machines, or ask for fewer with hardware.*."
                )
    finally:
        for part in reserved:
            remove_placement_group(part)
    _freed(parts)


def await_queue(config: TrainConfig, events: FileSink) -> None:
    """Wait until no other run is on the cluster; a killed one's queue may be there for a moment.

    Raises:
        InfrastructureError: there was one for ``hardware.cluster_seconds``.
    """
    seconds, began, told = config.hardware.cluster_seconds, time.monotonic(), False
    while _queue() is not None:
        waited = time.monotonic() - began
        if waited >= seconds:
            raise InfrastructureError(
                f"For {seconds:g} s (hardware.cluster_seconds) another run was on the Ray cluster "
                f"{config.cluster}, which can hold one at a time: TransferQueue has one name in all of them. "
                "Wait for its end, or start a cluster for this one."
            )
        if waited >= TOLD_SECONDS and not told:
            events.emit(StageStarted("waiting for machines", "another run is on the cluster"))
            told = True
        time.sleep(QUEUE_SECONDS)


def check_queue(config: TrainConfig) -> None:
    """Refuse to go on with the queue of a run that began at the same time.

    Raises:
        InfrastructureError: it is not this run's.
    """
    job = ray.JobID(bytes.fromhex(ray.get_runtime_context().get_job_id()))
    found = _queue()
    if found is None or found._actor_id.hex() not in ray._private.state.actors(job_id=job):
        raise InfrastructureError(
            f"Another run began on the Ray cluster {config.cluster} at the same time, and it can hold one "
            "run: TransferQueue has one name in all of them. Start this one again when the other has ended."
        )


def _queue() -> Any:
    """The cluster's TransferQueue, or ``None``."""
    try:
        return ray.get_actor(**QUEUE)
    except ValueError:
        return None


def _placed(reserved: list[PlacementGroup], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    return all(part.wait(max(0.0, deadline - time.monotonic())) for part in reserved)


def _freed(parts: list[list[Bundle]]) -> None:
    gpus, deadline = sum(map(len, parts)), time.monotonic() + FREED_SECONDS
    while ray.available_resources().get("GPU", 0) < gpus and time.monotonic() < deadline:
        time.sleep(0.1)


def _shown(resources: dict[str, float]) -> str:
    return f"{resources.get('GPU', 0):g} GPUs and {resources.get('CPU', 0):g} CPUs"

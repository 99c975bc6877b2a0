"""Asynchronous against synchronous training: samples per second on the real stack, and simulated.

    python -m benchmarks.async_training [--steps 24] [--bound 4] [--engines 16 128 1024] [--no-real] [--json]

The real half trains a policy of 0.7M parameters on :mod:`benchmarks.slow_world`: two turns with 2 s of
waiting between them on average, 16 episodes a step, the same tasks and times in both modes. Start-up and the
first steps, in which the asynchronous run fills its pipeline, are left out. The simulated half asks
:mod:`agentrl.simulate` for clusters, and says what a perfect scheduler would reach beside each; 1,024 engines
take some minutes a profile. Last comes :mod:`benchmarks.rollout_loop` at 1,024 episodes. ``--no-real`` leaves
the training out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentrl.config import load_config
from agentrl.events import DoctorReported, Event, EventReader, StalenessReported, StepFinished
from agentrl.registry import find_env
from agentrl.simulate import compare
from agentrl.store import RunFolder
from agentrl.train.launch import Training
from agentrl.train.models import find_model
from benchmarks import rollout_loop
from benchmarks.slow_world import LONGEST_SECONDS, MEAN_SECONDS

WORLD = Path(__file__).with_name("slow_world.py")
TASKS, GROUP = 4, 4
LEFT_OUT = 4
"""Steps at the beginning that are not counted."""
RUN_SECONDS = 1800.0
PROFILES = ("math", "search", "swe")

SETTINGS = (
    f"algorithm.tasks_per_step={TASKS}", f"algorithm.group_size={GROUP}", "rollout.max_turn_tokens=16",
    "rollout.max_turns=2", "rollout.max_prompt_tokens=64", "rollout.max_trajectory_tokens=96", "eval.tasks=4",
    "checkpoint.every=0", "rollout.seeded=false", "rollout.retries=0",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a training run on the slow world measured.

    Args:
        seconds_per_step: median of the counted steps, from the end of one to the end of the next.
        samples_per_second: episodes trained per second over all counted steps.
        busy_seconds: of a step, what training, weight updates and bookkeeping took.
        first_step_seconds: from the command to the end of the first step.
        staleness_mean, staleness_max: of trained tokens, in updates.
        dropped: groups given up, by reason.
        doctor: whether the doctor passed every step it examined.
    """

    mode: str
    seconds_per_step: float
    samples_per_second: float
    busy_seconds: float
    first_step_seconds: float
    staleness_mean: float
    staleness_max: int
    dropped: dict[str, int]
    doctor: bool


def train(mode: str, *, steps: int, bound: int, folder: Path) -> Run:
    """Run the stack once.

    Raises:
        RuntimeError: the run failed, or took longer than half an hour.
    """
    words = [*SETTINGS, f"mode={mode}", f"steps={steps}", f"staleness.bound={bound}", f"runs={folder}"]
    began = time.time()
    return summarise(mode, began, launched(str(WORLD), words), bound)


def launched(env: str, words: Sequence[str]) -> list[Event]:
    """Train on an environment with these settings, to the end; everything that the run told.

    Raises:
        RuntimeError: the run failed, or took longer than half an hour.
    """
    config = load_config(env, words)
    model = find_model(config, find_env(config.env))
    run = RunFolder.create(config.runs, config.env, config)
    training = Training(config, run.path, model)
    began, reader = time.time(), EventReader(run.events)
    training.start()
    try:
        while (status := training.poll()) is None:
            if time.time() - began > RUN_SECONDS:
                raise RuntimeError(f"training with mode={config.mode} did not end in {RUN_SECONDS:g} s")
            time.sleep(0.5)
    finally:
        training.kill()
    if status:
        raise RuntimeError(f"training with mode={config.mode} failed: {training.failure()}; see {run.log}")
    return list(reader.poll())


def summarise(mode: str, began: float, events: list[Event], bound: int) -> Run:
    """What the events of a run say."""
    steps = [event for event in events if isinstance(event, StepFinished)]
    # The last step ends with an evaluation, before its event. For the last ones before it all episodes have
    # been sampled, so they have the machine to themselves.
    counted = steps[LEFT_OUT - 1 : -1 - bound]
    gaps = [after.time - before.time for before, after in itertools.pairwise(counted)]
    stale = [event for event in events if isinstance(event, StalenessReported)]
    lags = {int(lag): 0 for event in stale for lag in event.tokens}
    dropped: dict[str, int] = {}
    for event in stale:
        for lag, tokens in event.tokens.items():
            lags[int(lag)] += tokens
        for reason, groups in event.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + groups
    reports = [event for event in events if isinstance(event, DoctorReported)]
    names = ("time/train", "time/sync", "time/other")
    return Run(
        mode=mode,
        seconds_per_step=statistics.median(gaps),
        samples_per_second=len(gaps) * TASKS * GROUP / sum(gaps),
        busy_seconds=statistics.median(sum(step.metrics[name] for name in names) for step in counted[1:]),
        first_step_seconds=steps[0].time - began,
        staleness_mean=sum(lag * tokens for lag, tokens in lags.items()) / max(1, sum(lags.values())),
        staleness_max=max(lags, default=0),
        dropped=dropped,
        doctor=bool(reports) and all(report.passed for report in reports),
    )


def real(steps: int, bound: int) -> dict[str, Any]:
    """Both modes on the real stack, one after the other."""
    with tempfile.TemporaryDirectory(prefix="async-training-") as folder:
        tell("synchronous training")
        sync = train("sync", steps=steps, bound=bound, folder=Path(folder))
        tell(f"{sync.seconds_per_step:.2f} s a step; asynchronous training")
        apart = train("async", steps=steps, bound=bound, folder=Path(folder))
        tell(f"{apart.seconds_per_step:.2f} s a step")
    return {
        "workload": f"{TASKS * GROUP} episodes a step, two turns, log-normal wait of mean {MEAN_SECONDS:g} s "
        f"cut at {LONGEST_SECONDS:g} s, staleness bound {bound}, {steps} steps",
        "sync": asdict(sync),
        "async": asdict(apart),
        "real_async_over_sync": apart.samples_per_second / sync.samples_per_second,
        # Were all waiting hidden, a step would take what the trainer itself needs.
        "real_share_of_hidden_waiting": apart.busy_seconds / apart.seconds_per_step,
    }


def simulated(sizes: Sequence[int]) -> dict[str, Any]:
    """The same comparison on simulated clusters, and of it the least ratio."""
    table = {}
    for profile, engines in itertools.product(PROFILES, sizes):
        began = time.perf_counter()
        entry = compare(profile, engines)
        table[f"{profile}/{engines}"] = {
            key: value for key, value in entry.items() if isinstance(value, float | int)
        }
        tell(f"{profile} on {engines} engines: {entry['async_over_sync']:.2f} times, simulated in "
             f"{time.perf_counter() - began:.0f} s")  # fmt: skip
    least = min(entry["async_over_sync"] for entry in table.values())
    return {"simulated": table, "simulated_async_over_sync": least}


def tell(line: str) -> None:
    """Progress, beside the outcome."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--bound", type=int, default=4)
    parser.add_argument("--engines", type=int, nargs="*", default=[16, 128, 1024], help="sizes of clusters")
    parser.add_argument("--no-real", action="store_true", help="only the simulation and the loop")
    parser.add_argument("--json", action="store_true", help="print one JSON object, on the last line")
    chosen = parser.parse_args()
    result = {} if chosen.no_real else real(chosen.steps, chosen.bound)
    if chosen.engines:
        result |= simulated(chosen.engines)
    loop = rollout_loop.measure(1024)
    result |= {"rollout_loop": loop, "rollout_efficiency_1024": loop["share_of_ideal"]}
    print(json.dumps(result) if chosen.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""From the command to the first training step, stage by stage.

    python -m benchmarks.startup [--runs 3] [--json]

Trains one step of math with its small policy, on this machine's CPU, and reads from the run's events when
each stage began. The first evaluation is of one task, and its time is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentrl.events import Event, EventReader, StageStarted
from benchmarks.async_training import tell

SECONDS = 600.0
EVALUATING = "evaluating"


def measure() -> dict[str, float]:
    """Seconds of each stage before the first step, and in all.

    Raises:
        RuntimeError: the training failed.
    """
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        command = [sys.executable, "-m", "agentrl.cli", "train", "math", "--plain", "steps=1", "eval.tasks=1"]
        began = time.time()
        done = subprocess.run(
            [*command, "algorithm.tasks_per_step=2", "algorithm.group_size=2", f"runs={folder}"],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"the training failed: {done.stdout[-500:]}{done.stderr[-500:]}")
        (run,) = (path.parent for path in Path(folder).glob("*/events"))
        return stages(list(EventReader(run / "events").poll()), began)


def stages(events: list[Event], began: float) -> dict[str, float]:
    """How long each stage took, from when it began to when the next one did."""
    started = [event for event in events if isinstance(event, StageStarted)]
    first = next(at for at, event in enumerate(started) if event.stage == "training")
    names = ["the command itself", *(event.stage for event in started[:first])]
    times = [began, *(event.time for event in started[: first + 1])]
    spans = itertools.pairwise(times)
    found = {name: after - at for name, (at, after) in zip(names, spans, strict=True)}
    found.pop(EVALUATING, None)
    return found | {"in all": sum(found.values())}


def main() -> None:
    """Measure, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object, on the last line")
    chosen = parser.parse_args()
    measured = []
    for _ in range(chosen.runs):
        measured.append(measure())
        tell(f"{measured[-1]['in all']:.1f} s")
    result = {name: round(statistics.median(run[name] for run in measured), 1) for name in measured[0]}
    print(json.dumps(result) if chosen.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

"""Learning curves of synchronous and asynchronous training on the real stack, against episodes and time.

    python -m benchmarks.async_learning [--seeds 0 1 2] [--steps 20] [--plot FILE.png] [--json]

Both modes start from math's small policy and train it on :mod:`benchmarks.slow_math`, 64 episodes a step.
Time begins with the first step: start-up and the first evaluation, which both have, are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from agentrl.events import DoctorReported, EvalFinished, Event, StepFinished
from agentrl.registry import find_env, source_folder
from benchmarks.async_training import launched, tell

WORLD = Path(__file__).with_name("slow_math.py")
TASKS, GROUP = 8, 8
WINDOW = 4
"""Steps over which success is averaged in the plot."""
REACHED = 0.6
"""Success, averaged so, to which the time is told."""
COLORS = {"sync": "#c0562f", "async": "#2f6bc0"}


@dataclass(frozen=True)
class Curve:
    """What one run learned, and when.

    Args:
        success: of each step's episodes.
        seconds: from the first step's beginning to the end of each.
        before, after: held-out success.
        doctor: whether every check passed.
    """

    mode: str
    seed: int
    success: list[float]
    seconds: list[float]
    before: float
    after: float
    doctor: bool

    @property
    def smooth(self) -> list[float]:
        """Success, each step averaged with those before it."""
        windows = [self.success[max(0, at + 1 - WINDOW) : at + 1] for at in range(len(self.success))]
        return [statistics.fmean(window) for window in windows]

    def reached(self, success: float = REACHED) -> tuple[int, float] | None:
        """Episodes and seconds until the averaged success was this high, if it ever was."""
        for at, reached in enumerate(self.smooth):
            if reached >= success:
                return (at + 1) * TASKS * GROUP, self.seconds[at]
        return None


def learn(mode: str, seed: int, *, steps: int, bound: int, folder: Path) -> Curve:
    """Train once; see :func:`benchmarks.async_training.launched` for what it raises."""
    model = source_folder(find_env("math")) / "policy"
    words = [
        f"mode={mode}", f"seed={seed}", f"steps={steps}", f"model={model}", f"runs={folder}",
        f"algorithm.tasks_per_step={TASKS}", f"algorithm.group_size={GROUP}", "rollout.tool_seconds=20",
        "rollout.max_turn_tokens=96", "checkpoint.every=0", "rollout.seeded=false",
    ]  # fmt: skip
    if mode == "async":
        words.append(f"staleness.bound={bound}")
    return curve(mode, seed, launched(str(WORLD), words))


def curve(mode: str, seed: int, events: Sequence[Event]) -> Curve:
    """What the events of a run say."""
    steps = [event for event in events if isinstance(event, StepFinished)]
    held_out = [event for event in events if isinstance(event, EvalFinished)]
    reports = [event for event in events if isinstance(event, DoctorReported)]
    began = steps[0].time - steps[0].metrics["time/step"]
    return Curve(
        mode=mode,
        seed=seed,
        success=[step.metrics["success/mean"] for step in steps],
        seconds=[step.time - began for step in steps],
        before=held_out[0].success,
        after=held_out[-1].success,
        doctor=bool(reports) and all(report.passed for report in reports),
    )


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Every run against episodes, and against time."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    for run in curves:
        episodes = [(at + 1) * TASKS * GROUP for at in range(len(run.success))]
        for axes, along in zip(panels, (episodes, run.seconds), strict=True):
            axes.plot(along, run.smooth, color=COLORS[run.mode], alpha=0.8)
    for axes, name in zip(panels, ("episodes trained", "seconds of training"), strict=True):
        axes.set(xlabel=name, ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel(f"success (mean of {WINDOW} steps)")
    modes = dict.fromkeys(run.mode for run in curves)
    lines = [plt.Line2D([], [], color=COLORS[mode]) for mode in modes]
    panels[1].legend(lines, list(modes), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Train with both modes and every seed in turn, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bound", type=int, default=2, help="updates by which a token may be behind")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file")
    parser.add_argument("--json", action="store_true", help="print one JSON object, on the last line")
    chosen = parser.parse_args()
    curves = []
    for seed in chosen.seeds:
        for mode in COLORS:
            with tempfile.TemporaryDirectory(prefix="async-learning-") as folder:
                run = learn(mode, seed, steps=chosen.steps, bound=chosen.bound, folder=Path(folder))
            tell(f"{mode}, seed {seed}: held-out success {run.before:.1%} -> {run.after:.1%}, "
                 f"{run.seconds[-1]:.0f} s of training")  # fmt: skip
            curves.append(run)
    if chosen.plot:
        draw(curves, chosen.plot)
    result: dict[str, Any] = {"runs": [asdict(run) | {"reached": run.reached()} for run in curves]}
    print(json.dumps(result) if chosen.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

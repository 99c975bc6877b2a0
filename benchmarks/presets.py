"""Every preset on the same small environment, from the same policy, with the same number of episodes.

    python -m benchmarks.presets --out presets.jsonl [--names grpo dapo …] [--seeds 0 1 2] [--steps 10]

The environment is math with its small policy: one call of Python and an answer, 32 episodes a step. A line
per run is added to the file; runs that are there already are not made again, so that this may be ended and
begun anew. Last it prints a table of all that is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agentrl.algorithms import load, names
from agentrl.errors import AgentRLError
from agentrl.events import DoctorReported, EvalFinished, Event, StepFinished
from benchmarks.async_training import launched, tell

TASKS, GROUP, HELD_OUT = 8, 4, 128
SETTINGS = (
    f"algorithm.tasks_per_step={TASKS}", f"algorithm.group_size={GROUP}", f"eval.tasks={HELD_OUT}",
    "checkpoint.every=0",
)  # fmt: skip
CHANGED: Mapping[str, tuple[str, ...]] = {
    "archer": ("algorithm.critic.options.warmup=3",),
    "craft": (
        "algorithm.shaping=null",
        "algorithm.curriculum={name: tiers, options: {key: pass_rate, bounds: [0.5], down: true}}",
    ),
    "rlsp": ("algorithm.shaping.options.judge=0",),
    "router_r1": ("algorithm.shaping=null",),
}
"""What a short run and the environment cannot give: long warm-ups, lengths of traces, a judge, prices."""


@dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Args:
        before, after: held-out success.
        success: of each step's episodes.
        gradients: norms, of each step.
        tokens: sampled while training.
        seconds: of its steps.
        problem: why there was no such run.
    """

    name: str
    seed: int
    before: float = 0.0
    after: float = 0.0
    success: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    tokens: float = 0.0
    seconds: float = 0.0
    doctor: bool = False
    problem: str = ""


def run(name: str, seed: int, steps: int) -> Outcome:
    """Train with one preset; a run that is refused or fails is an outcome, too."""
    mode = "async" if load(name).staleness.max_lag else "sync"
    with tempfile.TemporaryDirectory(prefix="presets-") as folder:
        words = [
            *SETTINGS, *CHANGED.get(name, ()), f"algorithm.name={name}", f"mode={mode}", f"seed={seed}",
            f"steps={steps}", f"runs={folder}",
        ]  # fmt: skip
        try:
            return outcome(name, seed, launched("math", words))
        except (AgentRLError, RuntimeError) as problem:
            return Outcome(name, seed, problem=str(problem))


def outcome(name: str, seed: int, events: Sequence[Event]) -> Outcome:
    """What the events of a run say."""
    steps = [event for event in events if isinstance(event, StepFinished)]
    held_out = [event for event in events if isinstance(event, EvalFinished)]
    reports = [event for event in events if isinstance(event, DoctorReported)]
    return Outcome(
        name=name,
        seed=seed,
        before=held_out[0].success,
        after=held_out[-1].success,
        success=[step.metrics["success/mean"] for step in steps],
        gradients=[step.metrics.get("actor/grad_norm", 0.0) for step in steps],
        tokens=sum(step.metrics["tokens/mean"] for step in steps) * TASKS * GROUP,
        seconds=sum(step.metrics["time/step"] for step in steps),
        doctor=bool(reports) and all(report.passed for report in reports),
    )


def table(outcomes: Iterable[Outcome]) -> str:
    """One line per preset: gain over all its seeds, with the standard error of the mean."""
    by_name: dict[str, list[Outcome]] = {}
    for each in outcomes:
        by_name.setdefault(each.name, []).append(each)
    lines = [
        "| preset | seeds | held-out before | after | gain (points) | while training, last 3 steps "
        "| largest gradient | thousand tokens | seconds a step | doctor |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in sorted(by_name.items()):
        ended = [each for each in runs if not each.problem]
        if not ended:
            lines.append(f"| `{name}` | {len(runs)} | | | | | | | | {runs[0].problem.splitlines()[0]} |")
            continue
        gains = [100 * (each.after - each.before) for each in ended]
        error = f" ± {statistics.stdev(gains) / len(gains) ** 0.5:.1f}" if len(gains) > 1 else ""
        mean = statistics.fmean
        lines.append(
            f"| `{name}` | {len(ended)} | {mean(each.before for each in ended):.1%} "
            f"| {mean(each.after for each in ended):.1%} | {mean(gains):+.1f}{error} "
            f"| {mean(mean(each.success[-3:]) for each in ended):.1%} "
            f"| {max(max(each.gradients) for each in ended):.2f} "
            f"| {mean(each.tokens for each in ended) / 1000:.1f} "
            f"| {mean(each.seconds / len(each.success) for each in ended):.1f} "
            f"| {'pass' if all(each.doctor for each in ended) else 'FAIL'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Make the runs that are not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, which are added to")
    parser.add_argument("--names", nargs="+", default=sorted(names()))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=10)
    chosen = parser.parse_args()
    there = read(chosen.out)
    for seed in chosen.seeds:
        for name in chosen.names:
            if any((each.name, each.seed) == (name, seed) for each in there):
                continue
            began = time.time()
            made = run(name, seed, chosen.steps)
            there.append(made)
            with chosen.out.open("a") as file:
                file.write(json.dumps(asdict(made)) + "\n")
            told = made.problem or f"held-out success {made.before:.1%} -> {made.after:.1%}"
            tell(f"{name}, seed {seed}: {told}, {time.time() - began:.0f} s")
    print(table(there))


def read(path: Path) -> list[Outcome]:
    """The outcomes in a file; none where there is no file."""
    if not path.exists():
        return []
    return [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()

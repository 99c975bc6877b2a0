"""Seconds of a training step of SmolLM2-135M on this machine's CPU, beside what its arithmetic allows.

    python -m benchmarks.small_model [--steps 4] [--json]

A step is 16 short episodes of math: a question, at most two turns of 48 tokens with Python between them.
The first step, which the doctor examines, and the last, which ends with an evaluation, are not counted. The
limits are measured before, in this process and with all cores: training takes 6 operations per parameter and
token (a forward pass, and a backward pass of twice that) at the rate of torch's matrix products in the
model's own shapes; a token of generation takes one pass over the weights, shared by the 16 episodes, at the
rate of reading memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from agentrl.events import DoctorReported, StepFinished
from benchmarks.async_training import launched, tell

TASKS, GROUP = 4, 4
SETTINGS = (
    "model=smollm2", f"algorithm.tasks_per_step={TASKS}", f"algorithm.group_size={GROUP}",
    "algorithm.learning_rate=1e-5", "rollout.renderer=code-fence", "rollout.max_turns=2",
    "rollout.max_prompt_tokens=256", "rollout.max_turn_tokens=48", "rollout.max_observation_tokens=32",
    "rollout.max_trajectory_tokens=192", "hardware.micro_batch_tokens=2048", "eval.tasks=1",
    "checkpoint.every=0",
)  # fmt: skip
PARAMETERS = 134_515_008
WIDTH, INNER, VOCABULARY = 576, 1536, 49_152
"""Of SmolLM2-135M; weights are float32."""
TOKENS = 1024
"""Rows of the matrices whose product is timed."""


def operations_per_second() -> float:
    """Of float32 products of activations with the model's weights, in the shares that its layers have."""
    layers = [(WIDTH, WIDTH), (WIDTH, INNER), (INNER, WIDTH), (WIDTH, VOCABULARY)]
    shares = [30 * 2 * WIDTH * WIDTH, 30 * 2 * WIDTH * INNER, 30 * INNER * WIDTH, WIDTH * VOCABULARY]
    seconds_per_operation = 0.0
    for (rows, columns), share in zip(layers, shares, strict=True):
        left, right = torch.randn(TOKENS, rows), torch.randn(rows, columns)
        seconds = median_seconds(lambda left=left, right=right: left @ right)
        seconds_per_operation += share / sum(shares) * seconds / (2 * TOKENS * rows * columns)
    return 1 / seconds_per_operation


def bytes_per_second() -> float:
    """Of reading memory that no cache holds."""
    data = torch.ones(128 << 20)
    return data.numel() * 4 / median_seconds(data.sum)


def median_seconds(work: Callable[[], object], times: int = 9) -> float:
    """How long the work takes, after a first time that is not counted."""
    work()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def measure(steps: int) -> dict[str, Any]:
    """Train, and compare.

    Raises:
        RuntimeError: the training failed.
    """
    tell("measuring what this machine's arithmetic allows")
    operations, reading = operations_per_second(), bytes_per_second()
    tell(f"training {steps} steps of {TASKS * GROUP} episodes")
    with tempfile.TemporaryDirectory(prefix="small-model-") as folder:
        events = launched("math", [*SETTINGS, f"steps={steps}", f"runs={folder}"])
    counted = [event.metrics for event in events if isinstance(event, StepFinished)][1:-1]
    reports = [event for event in events if isinstance(event, DoctorReported)]

    def median(name: str) -> float:
        return statistics.median(metrics[name] for metrics in counted)

    return {
        "seconds_per_step": median("time/step"),
        "training_seconds": median("time/train"),
        "generation_seconds": median("time/generate"),
        "row_tokens": median("time/train") * median("tokens/trained_per_second"),
        "sampled_tokens": median("tokens/mean") * TASKS * GROUP,
        "trained_per_second": median("tokens/trained_per_second"),
        "trained_per_second_limit": operations / (6 * PARAMETERS),
        "sampled_per_second": median("tokens/per_second"),
        "sampled_per_second_limit": TASKS * GROUP * reading / (4 * PARAMETERS),
        "doctor": bool(reports) and all(report.passed for report in reports),
    }


def report(figures: dict[str, Any]) -> str:
    """As a table."""
    lines = [f"seconds a step {figures['seconds_per_step']:.1f}"]
    for stage, tokens, verb in [("training", "row", "trained"), ("generation", "sampled", "sampled")]:
        rate = figures[f"{verb}_per_second"]
        lines.append(
            f"{stage}: {figures[f'{stage}_seconds']:.1f} s, {figures[f'{tokens}_tokens']:,.0f} tokens, "
            f"{rate:,.0f} a second ({rate / figures[f'{verb}_per_second_limit']:.0%} of what is possible)"
        )
    return "\n".join([*lines, f"doctor: {'pass' if figures['doctor'] else 'FAIL'}"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="at least 3")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    chosen = parser.parse_args()
    figures = measure(max(3, chosen.steps))
    print(report(figures))
    if chosen.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()

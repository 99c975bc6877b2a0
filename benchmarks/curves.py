"""Draws the learning curves of several runs into one picture, and prints their outcomes as a table.

python benchmarks/curves.py docs/images/seeds.png runs/A runs/B ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def main(out: str, *folders: str) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.2))
    print("| run | held-out before | held-out after | gain (points) | doctor | seconds |")
    print("|---|---|---|---|---|---|")
    for folder in map(Path, folders):
        summary = json.loads((folder / "summary.json").read_text())
        steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        label = f"{Path(summary['env']).stem}, seed {summary['seed']}"
        before, after = summary["success_before"], summary["success_after"]
        success = [step.get("metrics", step)["success/mean"] for step in steps]
        windows = [success[max(0, i - 4) : i + 1] for i in range(len(success))]
        smooth = [sum(window) / len(window) for window in windows]
        [line] = axes.plot(range(1, len(smooth) + 1), smooth, linewidth=2, label=label)
        axes.plot([0, len(success)], [before, after], "o", color=line.get_color(), clip_on=False)
        intervals = [
            f"{summary[key]:.1%} [{summary[key + '_interval'][0]:.1%}, {summary[key + '_interval'][1]:.1%}]"
            for key in ("success_before", "success_after")
        ]
        print(
            f"| {label} | {intervals[0]} | {intervals[1]} | {100 * (after - before):+.1f} "
            f"| {summary['doctor']} | {summary['seconds']:.0f} |"
        )
    axes.set(xlabel="training step", ylabel="success (mean of 5 steps; dots: held out)", ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out, dpi=130)


if __name__ == "__main__":
    main(*sys.argv[1:])

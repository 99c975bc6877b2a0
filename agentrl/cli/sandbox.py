"""``agentrl sandbox``: which isolation this machine offers, whether it holds, and one snippet run in it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentrl.config import parse_overrides
from agentrl.errors import DataError
from agentrl.sandbox import (
    Availability,
    Language,
    Limits,
    Sandbox,
    availability_of,
    backend_names,
    open_sandbox,
)
from agentrl.sandbox.conformance import (
    GROUPS,
    Check,
    Promise,
    Runner,
    Suite,
    Verdict,
    attempting,
    promises,
    read_attacks,
)
from agentrl.view.text import clean, duration

STYLES = {Verdict.passed: "green", Verdict.failed: "bold red", Verdict.not_offered: "yellow"}
_DETAIL = 2000  # characters of a failure that are shown


def image(packages: Sequence[str], *, from_registry: bool) -> int:
    """Build the docker backend's image, telling each step on stderr, and print its name.

    Raises:
        SandboxUnavailable, SandboxError: it cannot be built; says what is missing, or which step failed.
    """
    from agentrl.sandbox.image import DEFAULT_PACKAGES, build_image

    steps = Console(stderr=True)
    name = build_image(
        lambda line: steps.print(line, highlight=False),
        packages=tuple(packages) or DEFAULT_PACKAGES,
        from_registry=from_registry,
    )
    Console().print(name, highlight=False)
    return 0


def overview() -> int:
    """Print the backends: whether each works here, what it isolates, what is weaker, what is missing."""
    console = Console()
    table = Table(box=None, padding=(0, 2, 1, 0), header_style="bold", collapse_padding=True)
    table.add_column("backend", style="bold cyan", no_wrap=True)
    table.add_column("here", no_wrap=True)
    table.add_column("isolates, and what is weaker or missing", overflow="fold")
    for name in backend_names():
        found = availability_of(name)
        table.add_row(name, _usable(found), _describe(found))
    console.print(table)
    return 0


def _usable(found: Availability) -> Text:
    if not found.ok:
        return Text("no", style="dim")
    return Text("yes", style="green") if found.isolates else Text("unconfined", style="bold red")


def _describe(found: Availability) -> Text:
    text = Text("\n".join(clean(line, 500) for line in found.isolates))
    for sentence in found.weaker:
        text.append(f"{_newline(text)}weaker: {clean(sentence, 1000)}", style="yellow")
    if not found.ok:
        text.append(f"{_newline(text)}missing: {clean(found.reason, 1000)}", style="dim")
    return text


def _newline(text: Text) -> str:
    return "\n" if text.plain else ""


def check(
    backend: str,
    words: Sequence[str],
    *,
    only: Sequence[str] = (),
    attacks: Path | None = None,
    as_json: bool = False,
) -> int:
    """Run the conformance suite on a backend; 0 only if nothing failed.

    Raises:
        UsageError: there is no such backend, group or file, or the backend does not work here.
        InfrastructureError: it could not make even one session.
    """
    chosen = promises(only, read_attacks(attacks) if attacks else (), _runners())
    options = parse_overrides(words)

    def opened() -> Sandbox:
        return open_sandbox(backend, **options)

    console = Console(stderr=as_json)
    checks = asyncio.run(_check(opened, chosen, console))
    failed = sum(not each.ok for each in checks)
    if as_json:
        report = {
            "backend": backend,
            "passed": sum(each.verdict is Verdict.passed for each in checks),
            "failed": failed,
            "not_offered": sum(each.verdict is Verdict.not_offered for each in checks),
            "checks": [asdict(each) for each in checks],
        }
        Console(soft_wrap=True).print_json(json.dumps(report))
    else:
        console.print(_summary(backend, checks))
    return 1 if failed else 0


def _runners() -> dict[str, Runner]:
    """How attacks on what handles untrusted data are made: tools do that, not the sandbox."""
    from agentrl.tools.untrusted.attempts import ATTEMPTS

    return {tool: attempting(attempt) for tool, attempt in ATTEMPTS.items()}


async def _check(opened: Callable[[], Sandbox], chosen: Sequence[Promise], console: Console) -> list[Check]:
    checks = []
    async with Suite(opened) as suite:
        with console.status("", spinner="line") as status:
            for number, promise in enumerate(chosen, 1):
                status.update(f"{number}/{len(chosen)}  {promise.group}: {promise.name}")
                checks.append(await suite.check(promise))
                if not console.is_terminal or checks[-1].verdict is not Verdict.passed:
                    _show(console, checks[-1], promise)
    return checks


def _show(console: Console, check: Check, promise: Promise) -> None:
    line = Text.assemble(
        (f"{check.verdict:<12}", STYLES[check.verdict]),
        f"{check.group}: {check.name}",
        (f"  {duration(check.seconds)}", "dim"),
    )
    if check.verdict is Verdict.failed:
        line.append(f"\n    promised: {clean(promise.text, _DETAIL)}")
    if check.detail:
        line.append(f"\n    {clean(check.detail, _DETAIL)}", style="dim")
    console.print(line, soft_wrap=True)


def _summary(backend: str, checks: Sequence[Check]) -> Table:
    table = Table(title=f"Conformance of {backend}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("group", style="bold cyan")
    for heading in (*Verdict, "time"):
        table.add_column(str(heading), justify="right")
    for group in (*GROUPS, "all"):
        own = [each for each in checks if group in (each.group, "all")]
        counts = [sum(each.verdict is verdict for each in own) for verdict in Verdict]
        cells = [
            Text(str(count), style=STYLES[verdict] if count else "dim")
            for verdict, count in zip(Verdict, counts, strict=True)
        ]
        table.add_row(group, *cells, duration(sum(each.seconds for each in own)))
    return table


def run(file: str, words: Sequence[str], *, backend: str, language: Language, limits: Limits) -> int:
    """Run one snippet in an empty session and print the typed result as a JSON object.

    Raises:
        UsageError: there is no such backend or file, or the backend does not work here.
        InfrastructureError: the sandbox failed.
    """
    code = _read(file)
    sandbox = open_sandbox(backend, **parse_overrides(words))
    result = asyncio.run(_run(sandbox, code, language, limits))
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


async def _run(sandbox: Sandbox, code: str, language: Language, limits: Limits) -> dict[str, Any]:
    async with sandbox:
        result = asdict(await sandbox.run(code, language=language, limits=limits))
        del result["files"]  # none were asked for
        return result


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as problem:
        raise DataError(f"{file} cannot be read: {problem.strerror}") from None
    return data.decode(errors="replace")

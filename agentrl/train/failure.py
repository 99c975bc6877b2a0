"""Why a run must stop, told from any of its processes to the trainer and to the terminal."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

from agentrl.errors import AgentRLError, InfrastructureError, UsageError

FILE = "failure.json"


class RunStopped(AgentRLError):
    """Raised in the trainer where another process, or a person, asked the run to stop."""


class ProcessLost(RunStopped):
    """Raised where a process of the run is gone: it may go on from its last checkpoint."""


RECOVERABLE = (
    "ProcessLost",
    "RayActorError",
    "ActorDiedError",
    "ActorUnavailableError",
    "WorkerCrashedError",
)
"""Kinds of failures after which a run may go on; Ray's own names among them."""


def write_failure(folder: Path, problem: BaseException) -> None:
    """Record the first reason to stop; later ones follow from it and are not kept."""
    expected = isinstance(problem, UsageError | InfrastructureError | RunStopped)
    record = {
        "kind": type(problem).__name__,
        "message": str(problem) or type(problem).__name__,
        "expected": expected,
        "trace": "".join(traceback.format_exception(problem)),
    }
    try:
        with (folder / FILE).open("x", encoding="utf-8") as file:
            json.dump(record, file)
    except FileExistsError:
        return


def read_failure(folder: Path) -> dict[str, str] | None:
    """The recorded reason, or ``None``."""
    path = folder / FILE
    try:
        record: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # absent, or being written
        return None
    return record


def check_run(folder: Path) -> None:
    """Raise where the run was told to stop.

    Raises:
        RunStopped: with the recorded reason.
    """
    record = read_failure(folder)
    if record is not None:
        raise RunStopped(record["message"])


def last_line(problem: BaseException) -> str:
    """The last line of an error, which Ray buries under the stacks of other processes."""
    lines = [line for line in str(problem).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(problem).__name__

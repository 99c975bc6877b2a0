"""Running a repository's tests with pytest in a sandbox, and reading what came of them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ValidationError

from agentrl.tools.repo.workspace import guest

if TYPE_CHECKING:
    from agentrl.sandbox import Result

PASSING = ("passed", "xfailed")
LOADING_SECONDS = 10.0
"""What starting may take beside the tests themselves."""
MOST_MESSAGE = 2000
"""Characters of what a failing test says."""

PROGRAM = "guest_tests.py"
PLAIN = ("--assert=plain",)
"""Options for a run whose failures nobody reads: rewriting assertions takes longer than most tests do."""


class Report(BaseModel):
    """What came of some tests.

    Attributes:
        outcomes: by pytest's names of the tests: passed, failed, skipped, xfailed, xpassed. What is not here
            did not run to its end. A file that cannot be collected stands here as failed.
        messages: what failing ones said.
        ended: how the run did: ``finished``; ``timeout``; ``too many reports``; ``stopped`` by a limit of the
            sandbox or because the code under test ended more than its own process.
        detail: about a run that was stopped.
    """

    outcomes: Mapping[str, str] = {}
    messages: Mapping[str, str] = {}
    ended: Literal["finished", "timeout", "too many reports", "stopped"] = "finished"
    detail: str = ""

    def passed(self, names: Sequence[str]) -> bool:
        """Whether each of the tests passed."""
        return all(self.outcomes.get(name) in PASSING for name in names)


def request(
    run: Sequence[str], seconds: float, *, archive: bytes = b"", options: Sequence[str] = ()
) -> tuple[str, bytes]:
    """The program to run in a sandbox and its standard input.

    Args:
        run: files, folders or names of tests; none: whatever pytest finds.
        seconds: after which the tests are stopped.
        archive: a tar file to be unpacked into the working folder first.
        options: further ones for pytest.
    """
    asked = json.dumps(
        {"run": list(run), "seconds": seconds, "most": MOST_MESSAGE, "options": list(options)}
    ).encode()
    return guest(PROGRAM), struct.pack(">I", len(asked)) + asked + archive


def read(result: Result) -> Report:
    """What a run told. A run that was cut off passed nothing."""
    status = str(result.status)
    if status == "timeout":
        return Report(ended="timeout", detail=result.detail)
    if status == "ok":
        try:
            return Report.model_validate_json(result.stdout.splitlines()[-1])
        except (ValidationError, IndexError):
            pass
    said = result.detail or result.stderr.strip()[-300:] or "there is no report that can be read"
    return Report(ended="stopped", detail=said)

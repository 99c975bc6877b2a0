"""How a call ended, from what is known of its process."""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass
class Outcome:
    """A status, words for it, and the exit code if there is one."""

    status: str
    detail: str
    exit_code: int | None = None


def program_outcome(code: int) -> Outcome:
    """Of a program that ended by itself, or by a signal."""
    if code < 0:
        return Outcome("crashed", f"the command was ended by {signal_name(code)}", code)
    return Outcome("error", f"the command ended with code {code}", code) if code else Outcome("ok", "", 0)


def interpreter_end(code: int) -> str:
    """Words for the end of a cell's interpreter."""
    if code < 0:
        return f"the interpreter was ended by {signal_name(code)}"
    return f"the interpreter exited with code {code}"


def signal_name(code: int) -> str:
    """The signal of a negative exit code, in words."""
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"

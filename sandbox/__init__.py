"""Isolation for code that a model wrote: open a sandbox, make a session per episode, run code, read typed
results.

::

    async with open_sandbox() as sandbox:
        async with await sandbox.create(Limits(memory_mb=256)) as session:
            result = await session.run_cell("1 + 1")        # result.stdout == "2\\n"

Code never runs unconfined: where no isolation is available, opening a sandbox raises SandboxUnavailable.
"""

from __future__ import annotations

from .namespace import NamespaceSandbox
from .protocol import Availability, Language, Limits, Program, Result, Sandbox, Session, Status, run_in
from .registry import BACKENDS, availability_of, backend_names, find_backend, open_sandbox

__all__ = [
    "BACKENDS",
    "Availability",
    "Language",
    "Limits",
    "NamespaceSandbox",
    "Program",
    "Result",
    "Sandbox",
    "Session",
    "Status",
    "availability_of",
    "backend_names",
    "find_backend",
    "open_sandbox",
    "run_in",
]

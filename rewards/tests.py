"""Whether a change to a repository makes the tests pass that should, judged where its author never was."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel

from agentrl import DataError, ToolContext
from agentrl.rewards.guarded import GUARDED, guarded_uses, names_of
from agentrl.tools.repo.archive import Tree, tar
from agentrl.tools.repo.testing import LOADING_SECONDS, PLAIN, Report, read, request

Changes = Mapping[str, bytes | None]
"""Files by their paths as a change leaves them; ``None``: removed."""

MOST_ARCHIVE = 60 << 20
"""Bytes of a repository that is judged: one call takes no more."""
WAITING = 3.0
"""A test may take so many times its CPU seconds by the clock, for the machine may be busy."""

_TEST_FOLDERS = {"test", "tests", "testing"}
_STEERING = {"conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini",
             "setup.cfg", "pyproject.toml", "sitecustomize.py", "usercustomize.py"}  # fmt: skip
_NOT_SOURCE = {".pyc", ".pyo", ".so", ".pyd", ".pth", ".egg-link"}
_LEFT_OUT = {".git", "__pycache__", "node_modules"}

Level = Literal["unsubmitted", "empty", "refused", "failing", "passing"]


@dataclass(frozen=True)
class Suite:
    """What has to pass.

    Args:
        fail_to_pass: names of tests, as pytest writes them, that fail before the fix.
        pass_to_pass: names of tests that pass before and after it.
        files: test files that are put in place before judging, over those of the repository.
        gold: the files that the canonical fix changes, as it leaves them; what it uses, any fix may.
    """

    fail_to_pass: Sequence[str]
    pass_to_pass: Sequence[str] = ()
    files: Tree = field(default_factory=dict)
    gold: Changes = field(default_factory=dict)


class Verdict(BaseModel):
    """What became of a change.

    Attributes:
        level: ``unsubmitted``; ``empty``: nothing but tests was changed; ``refused``: it uses what only a
            trick needs; ``failing``; ``passing``.
        detail: why it is not passing.
        changed: the files that were judged.
    """

    level: Level
    detail: str = ""
    changed: list[str] = []


def is_source(path: str, suite: Suite) -> bool:
    """Whether a change to the file is carried over: not to tests, to what steers their run, or compiled.

    What the canonical fix changes is, whatever it is called, unless the suite brings it.
    """
    pure = PurePosixPath(path)
    name, folders = pure.name, set(pure.parts[:-1])
    if any("\ud800" <= letter <= "\udfff" for letter in path):
        return False  # of bytes that are no text: neither archives nor records take it
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or not path or len(path) > 255:
        return False
    if path in suite.gold and path not in suite.files:
        return True
    if path in suite.files or name in _STEERING or pure.suffix in _NOT_SOURCE:
        return False
    if name.startswith("test_") or pure.stem.endswith("_test") or name in ("test.py", "tests.py"):
        return False
    return not folders & (_TEST_FOLDERS | _LEFT_OUT)


def carried_over(base: Tree, changes: Changes, suite: Suite) -> dict[str, bytes | None]:
    """The part of a change that is judged: source files that differ from the repository's."""
    return {
        path: data
        for path, data in sorted(changes.items())
        if is_source(path, suite) and data != base.get(path)
    }


def refused_uses(base: Tree, kept: Changes, suite: Suite) -> list[str]:
    """What the change newly uses and must not; see :mod:`agentrl.rewards.guarded`."""
    own = _modules(base) | (_modules(kept) - sys.stdlib_module_names - GUARDED)
    known = {f"import {name}" for name in own} | names_of(suite.gold)
    found: set[str] = set()
    for path, data in kept.items():
        if data is not None and path.endswith(".py"):
            found |= set(guarded_uses(base.get(path, b""), data, known))
    return sorted(found)


def _modules(files: Mapping[str, bytes | None]) -> set[str]:
    """Names by which Python files can be imported from the repository's root."""
    return {PurePosixPath(path).parts[0].removesuffix(".py") for path in files if path.endswith(".py")}


async def judge(
    context: ToolContext,
    base: Tree,
    changes: Changes,
    suite: Suite,
    *,
    seconds: float = 20.0,
    memory_mb: int = 512,
    preload: Sequence[str] = ("pytest",),
    hide: Sequence[str] = (),
    guard: bool = True,
) -> Verdict:
    """Run the suite on the repository with a change, in an empty sandbox that its author never touched.

    Args:
        context: of the episode.
        base: the repository as the episode began.
        changes: what became of it; tests and what steers their run are left as they were.
        suite: what has to pass.
        seconds: CPU time of the run. By the clock it may take three times as long.
        memory_mb: MiB.
        preload: modules that the sandbox has ready.
        hide: installed packages that the tests and the code do not see.
        guard: whether to refuse changes that use what only tricks need.

    Raises:
        DataError: the repository is too large.
        InfrastructureError: the sandbox failed. What the change does to it is failing.
    """
    kept = carried_over(base, changes, suite)
    if not kept:
        return Verdict(
            level="empty", detail="No file was changed but tests." if changes else "No file was changed."
        )
    if guard and (uses := refused_uses(base, kept, suite)):
        return Verdict(level="refused", detail=f"It newly uses {', '.join(uses[:10])}.", changed=[*kept])
    sandbox = {"memory_mb": memory_mb, "preload": tuple(preload), "hide": tuple(hide)}
    report, controls = await _run(context, merged(base, kept), suite, seconds, sandbox)
    problem = _problem(report, controls, suite)
    return Verdict(level="failing" if problem else "passing", detail=problem, changed=[*kept])


def merged(base: Tree, changes: Changes) -> dict[str, bytes]:
    """The repository after a change."""
    both = {**base, **changes}
    return {path: data for path, data in both.items() if data is not None}


async def _run(
    context: ToolContext, files: Tree, suite: Suite, seconds: float, sandbox: Mapping[str, Any]
) -> tuple[Report, list[str]]:
    """The report of a run, and the names of its control tests, which have to fail."""
    controls = {f"test_{secrets.token_hex(6)}.py": body for body in _CONTROLS}
    archive = tar({**files, **suite.files, **controls})
    if len(archive) > MOST_ARCHIVE:
        raise DataError(
            f"A repository of {len(archive) >> 20} MiB is judged; {MOST_ARCHIVE >> 20} MiB is the most."
        )
    names = [*suite.fail_to_pass, *suite.pass_to_pass]
    first, last = controls
    run = [first, *dict.fromkeys(name.partition("::")[0] for name in names), last]
    wall = seconds * WAITING
    program, sent = request(run, wall, archive=archive, options=PLAIN)
    result = await context.run(
        program,
        stdin=sent,
        wall_seconds=wall + LOADING_SECONDS,
        cpu_seconds=seconds + LOADING_SECONDS,
        disk_mb=2 * (len(archive) >> 20) + 64,
        inodes=1
        << (4 * len(files) + 1024).bit_length(),  # few different sizes: equal sandboxes are kept ready
        output_bytes=8 << 20,
        **sandbox,
    )
    return read(result), [f"{name}::test_control" for name in controls]


_CONTROLS = (
    b"def test_control():\n    assert [1, 2] == [1, 3]\n",
    b"def test_control():\n    raise ValueError('control')\n",
)
"""Tests that fail, first and last in a run: if they do not, the runner is not what it was."""


def _problem(report: Report, controls: Sequence[str], suite: Suite) -> str:
    """Why a change does not pass; nothing if it does."""
    if report.ended != "finished":
        return f"The run of the tests ended with {report.ended}. {report.detail}".strip()
    for kind, names in (("should pass now", suite.fail_to_pass), ("passed before", suite.pass_to_pass)):
        if missing := [name for name in names if not report.passed([name])]:
            said = report.messages.get(missing[0], "").strip().splitlines()[-1:]
            count = f"{len(missing)} of {len(names)} tests that {kind} do not"
            return f"{count}: {missing[0]} {' '.join(said)}".strip()
    if any(report.outcomes.get(name) != "failed" for name in controls):
        return "The test runner was tampered with: a test that has to fail did not."
    return ""

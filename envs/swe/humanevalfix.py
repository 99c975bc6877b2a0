"""HumanEvalFix (OctoPack): a function with a bug, its docstring, and tests."""

from __future__ import annotations

import ast
from typing import Any

from agentrl import Task, read_split
from agentrl.envs.swe.repairs import Repair
from agentrl.rewards.tests import Suite

COLUMNS = ("task_id", "prompt", "buggy_solution", "canonical_solution", "test", "entry_point")
FILE, TESTS, EXAMPLES = "solution.py", "tests/test_solution.py", "tests/test_examples.py"


class HumanEvalFix:
    """Rows of the data set.

    Args:
        data, config: as :func:`agentrl.read_split` takes them.
        on_bad_row: ``stop`` or ``skip``.
    """

    hidden: tuple[str, ...] = ()

    def __init__(self, data: str, config: str | None, on_bad_row: Any) -> None:
        self._data, self._how = data, {"config": config, "on_error": on_bad_row}

    def tasks(self, split: str) -> list[Task]:
        """One for each row."""
        rows = read_split(self._data, split, columns=COLUMNS, check=wrong, **self._how)
        return [task_of(row) for row in rows]

    def repair(self, task: Task) -> Repair:
        """The function with its bug. What the row shows as examples may be run, its tests judge."""
        row = task.metadata
        name = row["entry_point"]
        base = {FILE: (row["prompt"] + row["buggy_solution"]).encode()}
        if row["example_test"]:
            base[EXAMPLES] = as_test_file(row["example_test"], name).encode()
        suite = Suite(
            fail_to_pass=[f"{TESTS}::test_{name}"],
            files={TESTS: as_test_file(row["test"], name).encode()},
            gold={FILE: (row["prompt"] + row["canonical_solution"]).encode()},
        )
        return Repair(base, suite)


def task_of(row: dict[str, Any]) -> Task:
    """A row as a task."""
    name = row["entry_point"]
    metadata = {column: row[column] for column in COLUMNS if column != "task_id"}
    metadata["example_test"] = row.get("example_test") or ""
    return Task(
        f"The function {name} in {FILE} has a bug. Fix it.", id=str(row["task_id"]), metadata=metadata
    )


def wrong(row: dict[str, Any]) -> str | None:
    """What is wrong with a row."""
    for column in COLUMNS:
        if not isinstance(row[column], str) or not row[column]:
            return f"{column!r} must be text"
    if not row["entry_point"].isidentifier():
        return f"'entry_point' is {row['entry_point']!r}, no name of a function"
    if row["buggy_solution"] == row["canonical_solution"]:
        return "'buggy_solution' is the canonical one"
    for column in ("canonical_solution", "test"):
        text = row["prompt"] + row[column] if column != "test" else row[column]
        try:
            ast.parse(text)
        except (SyntaxError, ValueError) as problem:
            return f"{column!r} is not Python: {problem}"
    return None


def as_test_file(given: str, name: str) -> str:
    """The row's ``check`` function as a test of pytest's; without the call at its end."""
    lines = given.strip("\n").splitlines()
    while lines and (not lines[-1].strip() or lines[-1].startswith(f"check({name})")):
        lines.pop()
    body = "\n".join(lines)
    head = f"from {FILE.removesuffix('.py')} import *\nfrom {FILE.removesuffix('.py')} import {name}\n"
    return f"{head}\n\n{body}\n\n\ndef test_{name}():\n    check({name})\n"

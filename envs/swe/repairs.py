"""What every kind of task comes down to: a repository with a bug, tests, and the canonical fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from agentrl import Message, Task, call
from agentrl.rewards.tests import Changes, Suite
from agentrl.tools.repo.archive import Tree


@dataclass(frozen=True)
class Repair:
    """A task's repository.

    Args:
        base: its files as the episode begins.
        suite: the tests that decide, and the canonical fix.
    """

    base: Tree
    suite: Suite


class Source(Protocol):
    """Where tasks come from.

    Attributes:
        hidden: installed packages in which the canonical fixes stand.
    """

    hidden: tuple[str, ...]

    def tasks(self, split: str) -> list[Task]:
        """The tasks of ``train`` or ``test``.

        Raises:
            DataError: they cannot be read.
        """

    def repair(self, task: Task) -> Repair:
        """The task's repository, in any process.

        Raises:
            DataError: it cannot be read.
        """


def fixing_calls(base: Tree, gold: Changes) -> Iterator[Message]:
    """The calls of ``edit`` and ``create`` that make the canonical fix. Removed files stay."""
    for path, data in gold.items():
        if data is None:
            continue
        before, after = base.get(path, b"").decode(), data.decode()
        if before:
            old, new = edit_of(before, after)
            yield call("edit", path=path, old=old, new=new)
        else:
            yield call("create", path=path, text=after)


def edit_of(before: str, after: str) -> tuple[str, str]:
    """The replacement of lines that turns one text into another; what is replaced stands there once."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    most = min(len(old), len(new))
    head = next((i for i in range(most) if old[i] != new[i]), most)
    tail = next((i for i in range(most - head) if old[-1 - i] != new[-1 - i]), most - head)
    while True:
        text = "".join(old[head : len(old) - tail])
        if (text and before.find(text) == before.rfind(text)) or not (head or tail):
            return text, "".join(new[head : len(new) - tail])
        head, tail = max(head - 1, 0), max(tail - 1, 0)


def described(changes: Changes, base: Tree, most: int) -> str:
    """A change as a unified diff, for the record; cut at ``most`` characters."""
    parts: list[str] = []
    for path, data in sorted(changes.items()):
        before, after = (
            (side or b"").decode(errors="replace").splitlines() for side in (base.get(path), data)
        )
        parts += difflib.unified_diff(before, after, f"a/{path}", f"b/{path}", lineterm="", n=1)
    return "\n".join(parts)[:most]

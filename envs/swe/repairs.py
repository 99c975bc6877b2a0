"""What every kind of task comes down to: a repository with a bug, tests, and the canonical fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
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
    """Where tasks come from."""

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
        edits = list(edits_of(before, after)) if before else []
        if edits and all(after for _, after in edits):
            yield from (call("edit", path=path, old=old, new=new) for old, new in edits)
        else:
            yield call("create", path=path, text=after)


def edits_of(before: str, after: str) -> Iterator[tuple[str, str]]:
    """Replacements of lines that turn one text into another, each of a text that stands there once."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    now = before
    for tag, low, high, first, last in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        margin = 0 if high > low else 1
        while True:
            above, below = max(low - margin, 0), min(high + margin, len(old))
            # lines above may be another edit's, which has been made
            head = new[max(first - (low - above), 0) : first]
            text = "".join([*head, *old[low:below]])
            if now.count(text) == 1 or (above == 0 and below == len(old)):
                break
            margin += 1
        replacement = "".join([*head, *new[first:last], *old[high:below]])
        now = now.replace(text, replacement, 1)
        yield text, replacement


def described(changes: Changes, base: Tree, most: int) -> str:
    """A change as a unified diff, for the record; cut at ``most`` characters."""
    parts: list[str] = []
    for path, data in sorted(changes.items()):
        before, after = ((side or b"").decode(errors="replace").splitlines() for side in (base.get(path), data))
        parts += difflib.unified_diff(before, after, f"a/{path}", f"b/{path}", lineterm="", n=1)
    return "\n".join(parts)[:most]


def strings(value: object) -> Mapping[str, str]:
    """JSON data that holds files."""
    assert isinstance(value, Mapping)
    return {str(path): str(text) for path, text in value.items()}

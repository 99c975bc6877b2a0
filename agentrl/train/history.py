"""What came of a task's episodes so far, and what that says about the next ones (DART)."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentrl.algorithms.curriculum import length_cap, rollouts_for

RECENT = 32
"""Episodes of a task that its success rate is of. No source says how many; four groups of eight."""


@dataclass
class TaskHistory:
    """Outcomes by task; as many tasks as the training has.

    Args:
        recent: whether a task's last episodes succeeded, the oldest first.
        longest: turns of a task's longest success.
    """

    recent: dict[str, deque[bool]] = field(default_factory=dict)
    longest: dict[str, int] = field(default_factory=dict)

    def add(self, task: str, success: bool, turns: int) -> None:
        """Take in an episode that the policy in training played."""
        self.recent.setdefault(task, deque(maxlen=RECENT)).append(success)
        if success:
            self.longest[task] = max(turns, self.longest.get(task, 0))

    def size(self, task: str, most: int) -> int:
        """Episodes of the task's next group: fewer than ``most`` where it succeeds more often than .6."""
        seen = self.recent.get(task)
        return min(most, rollouts_for(sum(seen) / len(seen), most=most)) if seen else most

    def turns(self, task: str, most: int) -> int:
        """Turns of the task's next episodes: no more than its longest success took."""
        return length_cap([self.longest[task]] if task in self.longest else [], most)

    def state(self) -> Mapping[str, Any]:
        """For a checkpoint; :meth:`load` makes it again."""
        return {"recent": {task: list(seen) for task, seen in self.recent.items()}, "longest": self.longest}

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> TaskHistory:
        """What :meth:`state` wrote."""
        recent = {task: deque(seen, maxlen=RECENT) for task, seen in state["recent"].items()}
        return cls(recent, dict(state["longest"]))

"""One thing to do: a prompt, and what is needed to judge the attempt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Task:
    """A task of an environment.

    Args:
        prompt: the user's message that opens the episode.
        answer: what a reward compares with; never shown to the model. JSON data.
        id: stable name of the task; by default a digest of prompt, answer and metadata.
        metadata: anything else the environment needs. JSON data: tasks travel between processes.
    """

    prompt: str
    answer: Any = None
    id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            content = json.dumps([self.prompt, self.answer, dict(self.metadata)], sort_keys=True, default=str)
            object.__setattr__(self, "id", hashlib.sha256(content.encode()).hexdigest()[:12])

    def to_dict(self) -> dict[str, Any]:
        """As JSON data; ``Task(**data)`` makes it again."""
        return {"prompt": self.prompt, "answer": self.answer, "id": self.id, "metadata": dict(self.metadata)}

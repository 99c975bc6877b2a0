"""Counts of a step's episodes that something sets apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Marked:
    """Episodes whose summary has a mark, and how many of them succeeded.

    Args:
        mark: a key of summaries.
        name: under which the metrics have it.
    """

    def __init__(self, mark: str, name: str) -> None:
        self._mark, self._name = mark, name
        self._episodes = self._successes = 0

    def see(self, summary: Mapping[str, Any]) -> None:
        """Count an episode that was played."""
        if summary.get(self._mark):
            self._episodes += 1
            self._successes += bool(summary["success"])

    def take_told(self, stored: int) -> dict[str, float]:
        """The counts by the metric's name, and how many are stored; they begin anew."""
        episodes, successes = self._episodes, self._successes
        self._episodes = self._successes = 0
        told = {f"{self._name}/episodes": float(episodes), f"{self._name}/stored": float(stored)}
        return told | ({f"{self._name}/success": successes / episodes} if episodes else {})

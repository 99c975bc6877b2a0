"""Several rankings as one."""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.tools.retrieval.corpus import Hit, Retriever

RANK = 60
"""The constant of reciprocal rank fusion, as its authors chose it."""
DEPTH = 100
"""Of each ranking, at least so many documents count."""


class Hybrid:
    """Adds up what several rankings say: ``1 / (60 + rank)`` for each that has the document."""

    def __init__(self, parts: Sequence[Retriever]) -> None:
        self._parts = parts

    def search(self, query: str, most: int) -> list[Hit]:
        """See :class:`Retriever`; a score is the sum."""
        return fuse([part.search(query, max(most, DEPTH)) for part in self._parts])[:most]


def fuse(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Reciprocal rank fusion, best first; of equal ones, the one met first."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (row, _) in enumerate(ranking, start=1):
            scores[row] = scores.get(row, 0.0) + 1 / (RANK + rank)
    return sorted(scores.items(), key=lambda hit: -hit[1])

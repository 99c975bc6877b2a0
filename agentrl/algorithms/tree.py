"""VeriRL: trace-back rescoring over trees of reflections, and the pairs a reward model learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentrl.errors import DefinitionError

REFLECT_BELOW = 0.2


@dataclass(frozen=True)
class Node:
    """One attempt: its score (the share of tests passed, 0 … 1), and which attempt it reflects on, if any."""

    id: str
    score: float
    parent: str | None = None


def needs_reflection(node: Node, depth: int, *, below: float = REFLECT_BELOW, rounds: int = 2) -> bool:
    """Whether an attempt gets reflected children: it scored below .2, at most two rounds deep."""
    return node.score < below and depth < rounds


def rescored(nodes: Sequence[Node]) -> dict[str, float]:
    """Bottom-up, a parent's score becomes the mean of its children's; leaves keep theirs.

    Raises:
        DefinitionError: two nodes share an id, a parent is missing, or nodes are their own ancestors.
    """
    by_id = {node.id: node for node in nodes}
    if len(by_id) != len(nodes):
        raise DefinitionError("Two nodes of a reflection tree have the same id.")
    children: dict[str, list[str]] = {node.id: [] for node in nodes}
    for node in nodes:
        if node.parent is not None:
            if node.parent not in by_id:
                raise DefinitionError(f"Node {node.id!r} reflects on {node.parent!r}, which is not there.")
            children[node.parent].append(node.id)
    order = [node.id for node in nodes if node.parent is None]
    for name in order:
        order.extend(children[name])
    if len(order) != len(nodes):
        raise DefinitionError("Nodes of a reflection tree reflect on each other in a circle.")
    scores: dict[str, float] = {}
    for name in reversed(order):
        below = [scores[child] for child in children[name]]
        scores[name] = sum(below) / len(below) if below else by_id[name].score
    return scores


def preference_pairs(
    scores: Mapping[str, float], *, good: float = 0.8, margin: float = 0.4
) -> list[tuple[str, str]]:
    """(better, worse) where ``r_i > good``, ``r_j > 0`` and ``r_i > r_j + margin``."""
    return [
        (better, worse)
        for better, high in scores.items()
        if high > good
        for worse, low in scores.items()
        if low > 0 and high > low + margin
    ]

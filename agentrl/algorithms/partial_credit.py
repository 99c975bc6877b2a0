"""Partial credit from what a program printed (RL for machine-learning engineering agents)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentrl.errors import DefinitionError

HIT = 0.1
FAILURE = -10.0


def hits(stdout: str, marks: Sequence[str]) -> int:
    """How many of the regular expressions are found in the output; each counts once.

    Raises:
        DefinitionError: one is no regular expression.
    """
    try:
        return sum(re.search(mark, stdout) is not None for mark in marks)
    except re.error as problem:
        raise DefinitionError(f"{problem.pattern!r} is no regular expression: {problem}.") from problem


def credit(
    reached: int,
    score: float | None,
    *,
    lower_is_better: bool = False,
    hit: float = HIT,
    failure: float = FAILURE,
) -> float:
    """The grader's score of a valid submission, or else ``failure + hit * reached``.

    Args:
        reached: marks found; see :func:`hits`.
        score: the grader's; ``None`` without a valid submission. It replaces all partial credit.
        lower_is_better: turns the score's sign.
        hit, failure: .1 and -10 are the paper's. That a failing program has both is inferred.
    """
    if score is not None:
        return -score if lower_is_better else score
    return failure + hit * reached

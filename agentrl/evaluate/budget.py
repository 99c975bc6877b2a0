"""Success against sampled tokens: many short attempts beside a few long ones, at the same cost."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from agentrl.errors import DataError
from agentrl.store import RunFolder

DRAWS = 200
"""Orders in which a task's attempts are taken."""

Attempt = tuple[int, bool]
"""Tokens that an episode sampled, and whether it solved its task."""


@dataclass(frozen=True)
class Curve:
    """The share of tasks that are solved within a number of sampled tokens each.

    Attempts at a task are made one after another, in random order, until one solves it or the budget is used
    up; one that would go beyond it does not count. That is what choosing by a verifier would come to.

    Args:
        name: of the evaluation.
        tasks: how many there are.
        attempts: at each, on average.
        tokens: of an attempt, on average.
        reach: tokens of all attempts at a task, on average; budgets beyond were not measured.
        costs: of each task and order, the tokens until it is solved; ``inf`` where it never is.
    """

    name: str
    tasks: int
    attempts: float
    tokens: float
    reach: float
    costs: Sequence[float]

    @classmethod
    def of(cls, name: str, tasks: Sequence[Sequence[Attempt]], *, draws: int = DRAWS, seed: int = 0) -> Curve:
        """The curve of attempts, task by task.

        Raises:
            DataError: there is no attempt.
        """
        taken = [list(attempts) for attempts in tasks if attempts]
        if not taken:
            raise DataError(f"{name} has no episode that was judged.")
        rng, count = Random(seed), sum(map(len, taken))
        costs: list[float] = []
        for attempts in taken:
            # A single attempt has one order.
            for _ in range(draws):
                costs.append(_cost(rng.sample(attempts, len(attempts))))
        total = sum(tokens for attempts in taken for tokens, _ in attempts)
        return cls(name, len(taken), count / len(taken), total / count, total / len(taken), sorted(costs))

    def solved(self, budget: float) -> float | None:
        """The share of tasks solved within so many tokens each; ``None`` beyond what was measured."""
        if budget > self.reach:
            return None
        return sum(cost <= budget for cost in self.costs) / len(self.costs)


def _cost(attempts: Sequence[Attempt]) -> float:
    """Tokens until the first success, its own included."""
    spent = 0
    for tokens, solved in attempts:
        spent += tokens
        if solved:
            return float(spent)
    return math.inf


def budgets(curves: Sequence[Curve], count: int = 12) -> list[int]:
    """Where to compare curves: from an eighth of the shortest attempt's tokens to the furthest reach."""
    least = max(1.0, min(curve.tokens for curve in curves) / 8)
    most = max(curve.reach for curve in curves)
    grid = [least * (most / least) ** (place / (count - 1)) for place in range(count)]
    return sorted({math.floor(value) for value in grid})


def read_attempts(run: RunFolder) -> list[list[Attempt]]:
    """An evaluation's judged episodes, by task.

    Raises:
        DataError: the run is no evaluation, or a line of it cannot be read.
    """
    if not run.episodes.is_file():
        raise DataError(f"Run {run.name!r} is no evaluation: it has no {run.episodes.name}.")
    tasks: dict[int, list[Attempt]] = defaultdict(list)
    with run.episodes.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                told = json.loads(line)
                if told["status"] != "void":
                    tasks[int(told["position"])].append((int(told["tokens"]), bool(told["success"])))
            except (ValueError, TypeError, KeyError) as problem:
                raise DataError(f"{run.episodes}:{number} is no episode's line: {problem!r}") from problem
    return [tasks[position] for position in sorted(tasks)]

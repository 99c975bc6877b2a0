"""Which tasks to draw, how often, how long: tiers (CRAFT-GUI), pass rates (ScaleRL), DART's N and cap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentrl.errors import DefinitionError

LENGTHS = (3.0, 8.0)
"""CRAFT-GUI's tiers by the length of the expert's trajectory: up to 3 steps, up to 8, more. Inferred."""


def tiers_by_number(
    values: Sequence[float], bounds: Sequence[float] = LENGTHS, *, down: bool = False
) -> list[int]:
    """The tier of each task, 0 for the easiest.

    Args:
        values: a length or a pass rate per task.
        bounds: rising; a value up to and including ``bounds[k]`` is in tier ``k`` or below.
        down: high values are easy, as pass rates are.

    Raises:
        DefinitionError: the bounds do not rise.
    """
    if any(low >= high for low, high in itertools.pairwise(bounds)):
        raise DefinitionError(f"The bounds of tiers must rise: {list(bounds)}.")
    places = [sum(value > bound for bound in bounds) for value in values]
    return [len(bounds) - place for place in places] if down else places


def tiers_by_label(labels: Sequence[str], order: Sequence[str]) -> list[int]:
    """The tier of each task by its label.

    Raises:
        DefinitionError: a label is not in ``order``.
    """
    unknown = set(labels) - set(order)
    if unknown:
        raise DefinitionError(f"No tier is called {min(unknown)!r}; the order is {', '.join(order)}.")
    return [order.index(label) for label in labels]


def tier_at(step: int, steps: int, shares: Sequence[float]) -> int:
    """The tier that is trained at ``step`` of ``steps``, each for its share of the steps.

    Raises:
        DefinitionError: shares do not add up to 1 or are negative, or the step is outside ``0 … steps - 1``.
    """
    if not shares or min(shares) < 0 or not math.isclose(sum(shares), 1.0):
        raise DefinitionError(f"The tiers' shares must add up to 1: {list(shares)}.")
    if not 0 <= step < steps:
        raise DefinitionError(f"step={step} must lie within 0 and steps - 1 = {steps - 1}.")
    reached = 0.0
    for tier, share in enumerate(shares):
        reached += share
        if step < reached * steps - 1e-9:
            return tier
    return len(shares) - 1


def drawn(tiers: Sequence[int], tier: int, *, cumulative: bool = False) -> list[int]:
    """The indices of the tasks drawn from while ``tier`` is trained; ``cumulative`` adds the easier ones."""
    return [i for i, own in enumerate(tiers) if own == tier or (cumulative and own < tier)]


@dataclass
class PassRates:
    """ScaleRL's no-positive-resampling: a task once solved in ``limit`` of its rollouts is not drawn again.

    Args:
        limit: pass rate from which a task is out, for good.
        tasks: seen so far: (passed, played).
    """

    limit: float = 0.9
    tasks: dict[str, tuple[int, int]] = field(default_factory=dict)
    out: set[str] = field(default_factory=set)

    def add(self, task: str, passed: int, played: int) -> None:
        """Take in a group's outcomes; the rate is that of all rollouts so far.

        Raises:
            DefinitionError: the counts do not fit.
        """
        if not 0 <= passed <= played:
            raise DefinitionError(f"passed={passed} must lie within 0 and played={played}.")
        before = self.tasks.get(task, (0, 0))
        now = self.tasks[task] = (before[0] + passed, before[1] + played)
        if now[1] and now[0] / now[1] >= self.limit:
            self.out.add(task)

    def drawn(self, tasks: Sequence[str]) -> list[str]:
        """Those of the tasks that are still drawn."""
        return [task for task in tasks if task not in self.out]

    def state(self) -> Mapping[str, object]:
        """As JSON data, for a checkpoint; :meth:`load` makes it again."""
        return {"limit": self.limit, "tasks": dict(self.tasks), "out": sorted(self.out)}

    @classmethod
    def load(cls, state: Mapping[str, object]) -> PassRates:
        """What :meth:`state` wrote.

        Raises:
            DefinitionError: it is something else.
        """
        try:
            tasks = {str(task): (int(one), int(two)) for task, (one, two) in dict(state["tasks"]).items()}  # type: ignore[call-overload]
            return cls(float(state["limit"]), tasks, set(state["out"]))  # type: ignore[arg-type, call-overload]
        except (KeyError, TypeError, ValueError) as problem:
            raise DefinitionError(f"This is no state of pass rates: {problem!r}.") from problem


def rollouts_for(success_rate: float, *, most: int = 8, least: int = 2, above: float = 0.6) -> int:
    """How many rollouts a task gets: ``most`` up to a success rate of .6, then less (DART).

    ``max(2, round(8 (1 - SR) / .4))``: the schedule of the decrease is inferred.

    Raises:
        DefinitionError: the rate lies outside 0 … 1.
    """
    if not 0 <= success_rate <= 1:
        raise DefinitionError(f"success_rate={success_rate} must lie within 0 and 1.")
    if success_rate <= above:
        return most
    return max(least, math.floor(most * (1 - success_rate) / (1 - above) + 0.5))


def length_cap(lengths: Sequence[int], most: int) -> int:
    """The turns a task's episode may take: the longest of its past successes, or else ``most`` (DART)."""
    return min(max(lengths, default=most), most)

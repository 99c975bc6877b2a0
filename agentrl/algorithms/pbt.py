"""Population based training: who copies whom, and how what was copied is changed. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from agentrl.errors import DefinitionError

Hypers = Mapping[str, float]


@dataclass(frozen=True)
class Hyper:
    """One hyperparameter's bounds, both included; ``whole`` ones are rounded."""

    low: float
    high: float
    whole: bool = False

    def fitted(self, value: float) -> float:
        """The nearest value allowed."""
        bounded = min(max(value, self.low), self.high)
        return float(round(bounded)) if self.whole else bounded


@dataclass(frozen=True)
class Event:
    """One exploit: at ``step``, ``member`` took over from ``donor``, and its hyperparameters changed."""

    step: int
    member: int
    donor: int
    old: Hypers
    new: Hypers


def exploit(
    scores: Sequence[float], rng: Random, *, quantile: float = 0.2, least: float = -math.inf
) -> dict[int, int]:
    """Which member copies which: the worst ``max(1, floor(qN))`` each draw one of the best as many.

    Truncation selection of the paper; the ``max(1, …)`` for small populations is inferred.

    Args:
        scores: ``[N]``, higher is better. Ties rank by index.
        least: who has less is copied by nobody.

    Raises:
        DefinitionError: less than two members, a score that is not finite, or a quantile outside (0, .5].
    """
    count = len(scores)
    if count < 2 or not all(map(math.isfinite, scores)) or not 0 < quantile <= 0.5:
        raise DefinitionError(
            f"A population has two members or more with finite scores ({list(scores)}); the quantile "
            f"({quantile}) lies above 0 and at most at .5."
        )
    ranked = sorted(range(count), key=lambda member: scores[member])
    chosen = max(1, math.floor(quantile * count + 1e-9))  # .2 * 10 must not fall below 2
    donors = [member for member in ranked[-chosen:] if scores[member] >= least]
    return {member: rng.choice(donors) for member in ranked[:chosen]} if donors else {}


def explore(
    hypers: Hypers, space: Mapping[str, Hyper], rng: Random, *, factors: Sequence[float] = (0.8, 1.2)
) -> dict[str, float]:
    """Each hyperparameter of ``space`` times one of the factors, kept within bounds; others stay.

    Raises:
        DefinitionError: one of the space is not among the hyperparameters.
    """
    missing = space.keys() - hypers.keys()
    if missing:
        raise DefinitionError(f"There is no hyperparameter {min(missing)!r}; there are {', '.join(hypers)}.")
    changed = {name: hyper.fitted(hypers[name] * rng.choice(factors)) for name, hyper in space.items()}
    return {**hypers, **changed}


def evolve(
    step: int,
    scores: Sequence[float],
    population: Sequence[Hypers],
    space: Mapping[str, Hyper],
    rng: Random,
    *,
    quantile: float = 0.2,
    factors: Sequence[float] = (0.8, 1.2),
    least: float = -math.inf,
) -> list[Event]:
    """What happens to a population at a step, as :func:`exploit` and :func:`explore` say; apply it with
    :func:`replay`."""
    return [
        Event(
            step, member, donor, population[member], explore(population[donor], space, rng, factors=factors)
        )
        for member, donor in exploit(scores, rng, quantile=quantile, least=least).items()
    ]


def replay(start: Sequence[Hypers], events: Sequence[Event]) -> list[list[tuple[int, Hypers]]]:
    """Every member's schedule, as (from step, hyperparameters), from the log of events.

    Raises:
        DefinitionError: an event does not follow from those before it.
    """
    schedules: list[list[tuple[int, Hypers]]] = [[(0, dict(hypers))] for hypers in start]
    for event in events:
        if not 0 <= event.member < len(start) or not 0 <= event.donor < len(start):
            raise DefinitionError(f"The log names member {event.member} or {event.donor}, of {len(start)}.")
        own = schedules[event.member]
        if dict(own[-1][1]) != dict(event.old) or event.step < own[-1][0]:
            raise DefinitionError(
                f"The log's event of member {event.member} at step {event.step} does not follow."
            )
        own.append((event.step, dict(event.new)))
    return schedules

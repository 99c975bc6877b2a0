"""Which tasks are drawn next: those of the tier that is trained, less those that are solved."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from agentrl.algorithms import Algorithm
from agentrl.algorithms.curriculum import PassRates, tier_at, tiers_by_label, tiers_by_number
from agentrl.algorithms.named import settings_of_part
from agentrl.algorithms.spec import Part
from agentrl.errors import ConfigError
from agentrl.task import Task

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

FILE = "curriculum.json"
"""In a checkpoint's folder."""

PASS_RATE = "pass_rate"
NEVER = 2.0
"""A pass rate that no task reaches."""


class Tiers(Part):
    """Tasks by difficulty, the easier ones first, each tier for its share of the steps.

    Source: CRAFT-GUI, arXiv:2508.11360, whose tiers and shares are inferred.
    """

    key: str = Field(
        "length",
        description="what in a task's metadata tells its tier: a number, a label, or a list, which counts "
        "as its length. pass_rate: as measured in this run; until then what the metadata say, or 0",
    )
    bounds: list[float] | None = Field(
        None, min_length=1, description="rising; a number up to the first is of the first tier, and so on"
    )
    order: list[str] | None = Field(None, min_length=2, description="labels instead, the easiest first")
    down: bool = Field(False, description="high numbers are easy, as pass rates always are")
    shares: list[float] | None = Field(None, description="of the steps, for each tier; by default alike")
    cumulative: bool = Field(False, description="easier tiers stay in")

    @model_validator(mode="after")
    def _fits(self) -> Tiers:
        if (self.bounds is None) == (self.order is None):
            raise ValueError(
                "tiers are told by bounds of numbers or by an order of labels: set one of the two"
            )
        if self.bounds and sorted(set(self.bounds)) != self.bounds:
            raise ValueError("bounds must rise")
        if self.key == PASS_RATE and (self.bounds is None or not all(0 <= at <= 1 for at in self.bounds)):
            raise ValueError("pass rates lie between 0 and 1, and so must bounds")
        if self.shares is not None and (
            len(self.shares) != self.count or min(self.shares) < 0 or not math.isclose(sum(self.shares), 1)
        ):
            raise ValueError(f"shares are one for each of the {self.count} tiers, and add up to 1")
        return self

    @property
    def count(self) -> int:
        """How many tiers there are."""
        return len(self.bounds) + 1 if self.bounds else len(self.order or ())

    def at(self, step: int, steps: int) -> int:
        """The tier that is trained at a step, counted from 0."""
        return tier_at(min(step, steps - 1), steps, self.shares or [1 / self.count] * self.count)

    def of(self, tasks: Sequence[Task], rates: Mapping[str, tuple[int, int]]) -> list[int]:
        """The tier of each task, 0 for the easiest.

        Args:
            tasks: all that are drawn from.
            rates: of tasks that were played, how often they were solved and played.

        Raises:
            ConfigError: a task's metadata do not tell.
        """
        if self.order is not None:
            return tiers_by_label([self._label(task) for task in tasks], self.order)
        assert self.bounds is not None
        if self.key != PASS_RATE:
            return tiers_by_number([self._number(task) for task in tasks], self.bounds, down=self.down)
        values = []
        for task in tasks:
            passed, played = rates.get(task.id, (0, 0))
            known = self._number(task) if PASS_RATE in task.metadata else 0.0
            values.append(passed / played if played else known)
        return tiers_by_number(values, self.bounds, down=True)

    def _number(self, task: Task) -> float:
        value = self._value(task)
        if isinstance(value, list | tuple):
            return float(len(value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(
                f"algorithm.curriculum.options.bounds are for numbers, and metadata {self.key!r} of task "
                f"{task.id} is {value!r}. Use order=[…] with bounds=null for labels."
            )
        return float(value)

    def _label(self, task: Task) -> str:
        label = str(self._value(task))
        if label not in (self.order or ()):
            raise ConfigError(
                f"algorithm.curriculum.options.order={self.order} has no tier for task {task.id}, whose "
                f"metadata {self.key!r} is {label!r}."
            )
        return label

    def _value(self, task: Task) -> Any:
        if self.key not in task.metadata:
            known = ", ".join(sorted(task.metadata)) or "none"
            raise ConfigError(
                f"algorithm.curriculum tells tiers by metadata {self.key!r}, which task {task.id} does not "
                f"have (it has: {known}). Name another with algorithm.curriculum.options.key, pass_rate for "
                "what the run measures, or take the curriculum away with algorithm.curriculum=null."
            )
        return task.metadata[self.key]


CURRICULA: dict[str, type[Tiers]] = {"tiers": Tiers}
"""By ``algorithm.curriculum.name``."""


def chooses(algorithm: Algorithm) -> bool:
    """Whether an algorithm has anything to say about which tasks are drawn."""
    return algorithm.curriculum is not None or algorithm.filters.solved is not None


class Draws:
    """Draws tasks again and again in random order, each of those that may be drawn once in a pass.

    Args:
        tasks: all that there are; several may have the same id.
        tiers: which are trained when; ``None``: all, always.
        solved: pass rate from which a task is not drawn again; ``None``: no task is left out.
        steps: of the training.
        seed: of the order.

    Raises:
        ConfigError: a task's tier cannot be told.
    """

    def __init__(
        self, tasks: Sequence[Task], *, tiers: Tiers | None, solved: float | None, steps: int, seed: int
    ) -> None:
        self._tasks, self._tiers, self._steps, self._seed = tasks, tiers, steps, seed
        self._rates = PassRates(NEVER if solved is None else solved)
        self._places: dict[str, list[int]] = defaultdict(list)
        for index, task in enumerate(tasks):
            self._places[task.id].append(index)
        self._left = np.ones(len(tasks), dtype=bool)
        self._tier_of = self._told()
        self._pass = self._place = self._drawable = 0
        self._order = self._shuffled()
        self.tier = 0
        self._check()

    @classmethod
    def of(cls, algorithm: Algorithm, tasks: Sequence[Task], *, steps: int, seed: int) -> Draws:
        """What an algorithm says about it.

        Raises:
            ConfigError: a part is unknown or does not fit the tasks.
        """
        part = algorithm.curriculum
        tiers = None if part is None else settings_of_part(part, "curriculum", CURRICULA)
        return cls(tasks, tiers=tiers, solved=algorithm.filters.solved, steps=steps, seed=seed)

    def draw(self, count: int, step: int) -> list[int]:
        """The indices of the next tasks, for a step counted from 0.

        Raises:
            ConfigError: every task is solved.
        """
        allowed, found = self._allowed(step), list[int]()
        self._drawable = int(allowed.sum())
        while True:
            rest = self._order[self._place :]
            places = np.flatnonzero(allowed[rest])[: count - len(found)]
            found += rest[places].tolist()
            if len(found) == count:
                self._place += int(places[-1]) + 1
                return found
            self._pass, self._place = self._pass + 1, 0
            self._order = self._shuffled()

    def add(self, episodes: Iterable[tuple[str, bool]]) -> None:
        """Take in how episodes ended: each one's task, and whether it was solved."""
        counts: dict[str, list[bool]] = defaultdict(list)
        for task, success in episodes:
            counts[task].append(success)
        for task, found in counts.items():
            self._rates.add(task, sum(found), len(found))
        self._leave_out()
        if self._tiers is not None and self._tiers.key == PASS_RATE:
            self._tier_of = self._told()

    def metrics(self) -> dict[str, float]:
        """How many tasks are solved and how many are drawn from, and the tier that is trained, from 1 on."""
        found = {"solved": float((~self._left).sum()), "tasks": float(self._drawable)}
        return found if self._tiers is None else {"tier": self.tier + 1.0, **found}

    def save(self, folder: Path) -> None:
        """Write what is solved and where the drawing stands into a checkpoint's folder.

        Raises:
            OSError: it could not be written.
        """
        state = {"pass": self._pass, "place": self._place, "tier": self.tier, "rates": self._rates.state()}
        (folder / FILE).write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """What :meth:`save` wrote, if there is any; a limit that the settings changed holds from now on."""
        if not (folder / FILE).is_file():
            return
        state = json.loads((folder / FILE).read_text())
        limit = self._rates.limit
        self._rates = PassRates.load(state["rates"])
        self._rates.limit = limit
        self._pass, self._place, self.tier = int(state["pass"]), int(state["place"]), int(state["tier"])
        self._order, self._tier_of = self._shuffled(), self._told()
        self._leave_out()

    def _leave_out(self) -> None:
        for task in self._rates.out:
            self._left[self._places[task]] = False

    def _allowed(self, step: int) -> Bools:
        """Whether each task may be drawn.

        Where a tier has none left, the next harder one that has some is trained, or else the next easier one.
        """
        if not self._left.any():
            raise ConfigError(
                f"Every one of the {len(self._tasks)} tasks is solved (algorithm.filters.solved="
                f"{self._rates.limit:g}), so there is nothing left to train on. Take more or harder tasks."
            )
        if self._tiers is None:
            return self._left
        wanted, there = self._tiers.at(step, self._steps), np.unique(self._tier_of[self._left]).tolist()
        harder = [tier for tier in there if tier >= wanted]
        self.tier = harder[0] if harder else there[-1]
        allowed: Bools = self._tier_of == self.tier
        if self._tiers.cumulative:
            allowed |= self._tier_of < self.tier
        allowed &= self._left
        return allowed

    def _check(self) -> None:
        """Refuse tiers without tasks, unless the run is yet to find out."""
        if self._tiers is None or self._tiers.key == PASS_RATE:
            return
        sizes = np.bincount(self._tier_of, minlength=self._tiers.count).tolist()
        if not all(sizes):
            raise ConfigError(
                f"algorithm.curriculum: the {self._tiers.count} tiers by {self._tiers.key!r} have {sizes} "
                "tasks, and none may be empty. Change bounds or order in algorithm.curriculum.options."
            )

    def _told(self) -> Ints:
        if self._tiers is None:
            return np.zeros(len(self._tasks), np.int64)
        return np.array(self._tiers.of(self._tasks, self._rates.tasks), np.int64)

    def _shuffled(self) -> Ints:
        return np.random.default_rng([self._seed, self._pass]).permutation(len(self._tasks))

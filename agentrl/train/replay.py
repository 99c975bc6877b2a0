"""Samples of earlier steps that are trained on again: what is kept of them, by name, and when it is used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal

from pydantic import Field

from agentrl.algorithms.pool import Rollout, dart_group, inject_success, newest_versions
from agentrl.algorithms.replay import Buffer, Item, spear_admits, successes
from agentrl.algorithms.running import RunningPercentile
from agentrl.algorithms.spec import Coefficient, Part, Ramp
from agentrl.train.packets import NODE

ANY = 1 << 60
"""More versions than there are."""


class Replay(Part):
    """What is kept, and when it is trained on."""

    @property
    def own_columns(self) -> bool:
        """Whether it takes shares and advantages that verl's losses do not have."""
        return False


class TaskReplay(Replay):
    """Successes by task: a group that failed as a whole gets one of the same task (TRPO-traj, DART)."""

    capacity: int = Field(1024, ge=1, description="episodes in all; the oldest gives way")
    capacity_per_task: int = Field(1, ge=1, description="episodes of one task; the oldest gives way")
    age: int | None = Field(None, ge=1, description="steps after which an episode is dropped; default: never")
    admit: Literal["success"] = "success"
    refill: Literal["all_failed"] = "all_failed"
    replace: Literal["random", "oldest"] = Field("random", description="which failure gives way")
    newest_versions: int | None = Field(
        None, ge=1, description="episodes of older versions than the step's newest so many are left out"
    )
    least: int | None = Field(
        None,
        ge=1,
        description="DART: a group with fewer episodes, or of the size asked for, is left out; and so is one "
        "that succeeded or failed as a whole",
    )

    @property
    def own_columns(self) -> bool:
        """Whether episodes that were played are left out of baselines and shares."""
        return self.newest_versions is not None or self.least is not None


class SpearReplay(Replay):
    """Good episodes that called tools, trained on again with advantages measured anew (SPEAR)."""

    tolerate_steps: int = Field(10, ge=0, description="steps after which an episode is dropped")
    size: int = Field(2048, ge=1)
    fill: float = Field(1.5, gt=0, description="used once more than so many times size are worth it")
    percentile: float = Field(50.0, ge=0, le=100, description="of groups' mean rewards: the baseline")
    window: int = Field(10240, ge=1, description="groups that it is of")
    coefficient: Coefficient = Field(1.0, description="of the replayed loss; a number, or a ramp over steps")

    @property
    def own_columns(self) -> bool:
        """Always: advantages of its rows are of no group."""
        return True

    def weight(self, step: int) -> float:
        """The coefficient at a step, counted from 0."""
        return self.coefficient.at(step) if isinstance(self.coefficient, Ramp) else self.coefficient


class SwarmReplay(Replay):
    """Other runs' groups beside one's own, told again and judged here (SAPO)."""

    local: int = Field(4, ge=1, description="of local + external groups, so many are played by this run")
    external: int = Field(4, ge=0, description="and so many by others, where there are that many")
    share: str | None = Field(
        None, description="a folder, or the URL of agentrl swarm serve; default: swarm in the folder of runs"
    )
    node: str | None = Field(None, pattern=NODE, description="this run's name; default: that of its folder")
    capacity: int = Field(256, ge=1, description="groups that may wait; the oldest gives way")
    age: int = Field(10, ge=1, description="steps after which a group that waits is dropped")


REPLAYS: Mapping[str, type[Replay]] = {"task": TaskReplay, "spear": SpearReplay, "swarm": SwarmReplay}
"""What training carries out, by name."""


@dataclass(frozen=True)
class Decision:
    """What becomes of a group.

    Args:
        replaced: the episode that gives way to a stored success, if any.
        left_out: episodes that are in no baseline and have no share.
    """

    replaced: str | None = None
    left_out: frozenset[str] = frozenset()


def decide(
    how: TaskReplay,
    step: Sequence[Rollout],
    group: str,
    success: Rollout | None,
    *,
    asked: int,
    rng: Random,
) -> Decision:
    """What becomes of a group of a step.

    Args:
        how: the rules.
        step: all episodes of the step, with their group's name as ``task``.
        group: which group.
        success: a stored one of the same task, if there is any and it may be used.
        asked: episodes that the group was to have.
        rng: draws which failure gives way.
    """
    ordered = sorted(step, key=lambda one: (one.version, one.order))
    aged = [replace(one, order=age) for age, one in enumerate(ordered)]
    own = [one for one in aged if one.task == group]
    if how.newest_versions is None and how.least is None:
        return Decision(_given_up(how, own, success, rng))
    versions = ANY if how.newest_versions is None else how.newest_versions
    fresh = [one for one in newest_versions(aged, versions) if one.task == group]
    stale = frozenset(one.id for one in own) - {one.id for one in fresh}
    if how.least is None:
        return Decision(_given_up(how, fresh, success, rng), stale)
    newest = max(one.version for one in aged)
    # Of the newest version, so that its own does not count as one of the step's.
    stored = None if success is None else replace(success, version=newest)
    pool = aged if stored is None else [*aged, stored]
    size = max(min(how.least, asked), len(fresh))
    kept = dart_group(pool, group, size=size, versions=versions)
    if kept is None:
        return Decision(left_out=frozenset(one.id for one in own))
    if stored is None or stored not in kept:
        return Decision(left_out=stale)
    return Decision(_given_up(how, fresh, stored, rng), stale)


def _given_up(how: TaskReplay, own: Sequence[Rollout], success: Rollout | None, rng: Random) -> str | None:
    """The episode of a group, the oldest first, that gives way to a stored success, if all failed."""
    mixed = inject_success(own, success, rng)
    if success is None or mixed is None or success not in mixed:
        return None
    return own[0].id if how.replace == "oldest" else next(one.id for one in own if one not in mixed)


class TaskStore:
    """Successes by task, bounded.

    Args:
        how: its limits.
    """

    def __init__(self, how: TaskReplay) -> None:
        self.how = how
        self._items: Buffer[Any] = Buffer(how.capacity, how.capacity_per_task, age=how.age, admit=successes)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Item[Any]) -> None:
        """Keep an episode."""
        self._items.add(item)

    def newest(self, task: str, step: int) -> Item[Any] | None:
        """The newest success of a task that is not too old."""
        self._items.expire(step)
        return self._items.newest(task)

    def state(self) -> list[Item[Any]]:
        """For a checkpoint, from the oldest to the newest."""
        return list(self._items)

    def load(self, items: Iterable[Item[Any]]) -> None:
        """What :meth:`state` gave."""
        for item in items:
            self._items.add(item)


@dataclass(frozen=True)
class Again:
    """What is trained on again in a step.

    Args:
        items: the episodes.
        baseline: what is subtracted from their rewards.
        weight: factor of their loss.
    """

    items: list[Item[Any]]
    baseline: float
    weight: float


class SpearBuffer:
    """Episodes that were better than expected, until there are enough of them.

    Args:
        how: its limits. Twice as many episodes are kept as it takes to be used.
    """

    def __init__(self, how: SpearReplay) -> None:
        self.how = how
        self._ready = math.floor(how.fill * how.size)
        most = 2 * (self._ready + 1)
        self._items: Buffer[Any] = Buffer(most, most, age=how.tolerate_steps, admit=spear_admits)
        self._means = RunningPercentile(how.window, how.percentile)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def baseline(self) -> float:
        """The percentile of groups' mean rewards."""
        return self._means.value

    def see(self, means: Iterable[float]) -> None:
        """Take in the mean rewards of a step's groups."""
        self._means.add(means)

    def wants(self, *, advantage: float, calls: int) -> bool:
        """Whether an episode would be kept."""
        return spear_admits(Item(None, "", 0.0, 0, advantage=advantage, calls=calls))

    def add(self, item: Item[Any]) -> None:
        """Offer an episode."""
        self._items.add(item)

    def take(self, step: int) -> Again | None:
        """What a step, counted from 1, trains on again; the buffer is empty then."""
        self._items.expire(step)
        weight = self.how.weight(step - 1)
        if weight <= 0:
            return None
        items = self._items.take_above(self.baseline, ready=self._ready)
        return Again(items, self.baseline, weight) if items else None

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"items": list(self._items), "means": self._means.seen}

    def load(self, state: Mapping[str, Any]) -> None:
        """What :meth:`state` gave."""
        self._means.add(state["means"])
        for item in state["items"]:
            self._items.add(item)

"""How stale a trained token may be, and what keeps it so.

Version ``v`` is the policy after ``v`` updates. Step ``s`` trains version ``s - 1``, so a token that
version ``u`` sampled is ``s - 1 - u`` updates stale there.

With ``wait`` the bound holds without a loss. A group begun at version ``u`` is due in the step that trains
version ``u + bound``. At most ``(bound + 1) · batch`` groups are admitted and not yet trained (AReaL's
admission rule, staleness_manager), the oldest are trained first, and no batch is taken that leaves more
groups due within the next ``k`` steps than ``k`` steps train, for any ``k``. What is admitted meanwhile is
due ``bound`` steps later, and there is room for it then: so where all groups have ended the oldest always
make a batch, and the trainer waits for stragglers at most. (Inferred: a schedule by earliest deadline.)

Admission and that schedule are pure functions (``capacity`` and ``overdue`` of
:mod:`agentrl.algorithms.staleness`), which the simulator's gate uses as well. What keeps the groups differs:
the gate holds them itself, and here they are rows in TransferQueue, which a restart finds again, whose tokens
tell the version, and of which a step may take several batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentrl.algorithms import chosen
from agentrl.algorithms.staleness import Policy, capacity, overdue
from agentrl.config import TrainConfig

USUAL_BOUND = 2
"""Updates that an asynchronous run may be behind where neither its settings nor its algorithm say."""


@dataclass(frozen=True, slots=True)
class Group:
    """The episodes of a task, as the buffer knows them.

    Args:
        name: unique.
        oldest: version of its oldest token; of a group under way the version at its admission, or older.
        finished: whether all of its episodes have ended.
        rows: training rows there are of it.
    """

    name: str
    oldest: int
    finished: bool
    rows: int = 0


@dataclass(frozen=True, slots=True)
class StalenessRule:
    """Admission, choice and dropping of groups.

    Args:
        bound: updates by which a trained token may be behind.
        policy: what becomes of groups that would be further behind.
    """

    bound: int
    policy: Policy

    @classmethod
    def of(cls, config: TrainConfig) -> StalenessRule:
        """The rule of a run: sync is never behind, one-step-off waits for groups one update behind."""
        if config.mode != "async":
            return cls(1 if config.mode == "one_step_off" else 0, "wait")
        bound = config.staleness.bound
        if bound is None:
            lag = chosen(config.algorithm).staleness.max_lag
            bound = USUAL_BOUND if lag is None else lag
        return cls(bound, config.staleness.policy)

    def capacity(self, *, batch: int, trained: int, version: int, outstanding: int, last: int) -> int:
        """Groups that may be admitted now, by AReaL's rule.

        What is trained or waits to be trained is what :func:`agentrl.algorithms.staleness.capacity` calls
        accepted.

        Args:
            batch: groups of a step.
            trained: groups trained so far.
            version: the trainer's.
            outstanding: groups admitted and not trained, under way or finished.
            last: steps of the run; nothing is admitted that no step would train.
        """
        ahead = min(self.bound, last - version - 1)
        return max(0, capacity(version, trained, outstanding, batch=batch, eta=ahead))

    def too_late(self, group: Group, version: int) -> bool:
        """Whether a group may not be trained any more.

        With ``wait`` none comes this far, unless the bound was lowered between two starts of the run.
        """
        return self.policy != "correct" and version - group.oldest > self.bound

    def choose(
        self, groups: Iterable[Group], *, version: int, size: int, after: int, batch: int
    ) -> Sequence[Group] | None:
        """The groups of the next batch, or ``None`` while it has to wait.

        Args:
            groups: those admitted and not trained, without any that is too late.
            version: the trainer's.
            size: groups of the batch.
            after: groups that the same step trains after this batch.
            batch: groups of a step.
        """
        known = sorted(groups, key=lambda group: (group.oldest, group.name))
        chosen = [group for group in known if group.finished][:size]
        if len(chosen) < size:
            return None
        if self.policy != "wait":
            return chosen
        taken = {group.name for group in chosen}
        left = (group.oldest for group in known if group.name not in taken)
        late = overdue(left, version=version, bound=self.bound, batch=batch, after=after)
        # What is late is still under way where a newer group was chosen, else nothing is won by waiting.
        return None if late is not None and chosen[-1].oldest > late else chosen


def histogram(versions: Iterable[Mapping[str, int]], version: int) -> dict[str, int]:
    """Tokens by how many updates they are stale.

    Args:
        versions: per episode, its sampled tokens by the version that sampled them.
        version: the one that is trained.
    """
    counts: Counter[int] = Counter()
    for episode in versions:
        for sampled, tokens in episode.items():
            counts[version - int(sampled)] += tokens
    return {str(lag): counts[lag] for lag in sorted(counts)}


@dataclass(frozen=True, slots=True)
class Examined:
    """The steps that the doctor examines: the first of a process and the last of the run.

    In a run that is gone on with, groups from before are trained first, of which this process has no record:
    there its first is the one from which on all groups began in it.

    Args:
        first: step the process began with.
        last: of the run.
        bound: updates by which a trained token may be behind; ``None``: there is no bound.
    """

    first: int
    last: int
    bound: int | None = 0

    @property
    def steps(self) -> set[int]:
        """Which steps."""
        lag = self.bound or 0
        return {min(self.last, self.first + (lag if self.first > 1 else 0)), self.last}

    def recorded(self, begun: int) -> bool:
        """Whether an examined step may train a group that was begun in step ``begun``."""
        if self.bound is None:
            return True
        return any(step - self.bound <= begun <= step for step in self.steps)

    def needs(self, version: int, now: int) -> bool:
        """Whether an examined step, with version ``now`` or a later one, may train tokens of a version."""
        if self.bound is None:
            return False
        return any(now < step and step - 1 - self.bound <= version < step for step in self.steps)

"""How old the policy may be that sampled what is trained on, and what happens to what is older.

A sample is one unit of the trainer's batch: an episode, or a group of them. The policy has a version, which
each training step raises by one. A sample's *age* is the trainer's version when it is trained on, less the
version that drew its oldest token; trained on at once it is 0.

:class:`StalenessGate` is the whole rule: admission (AReaL's η), the bound on age (ScaleRL's lag k), and what
becomes of samples beyond it. :func:`newest_versions` is DART's filter, :class:`DeferredSwap` AsyncFlow's way
of taking new weights. Nothing here waits, sleeps or knows of verl.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Policy = Literal["drop", "wait", "correct"]
"""What is done about a sample that is going to be too old.

- ``drop``: it is left out as soon as it is too old, and counted. The bound holds.
- ``wait``: the trainer makes no step that would leave it behind. The bound holds, and nothing is lost to age.
- ``correct``: it is trained on all the same; the loss has to weigh its tokens. The bound does not hold; the
  histogram shows by how much.
"""


def capacity(
    version: int, accepted: int, running: int, *, batch: int, eta: int, most_running: int | None = None
) -> int:
    """How many further samples may be started: AReaL's admission rule. Negative where too many were.

    ``min(most_running − running, (η + v + 1)·B − (accepted + running))``; the second part says that the
    N-th sample ever started is trained on at most η versions later, ``⌊(N−1)/B⌋ ≤ v + η``, as long as samples
    end in the order of their starts. Source: AReaL, Section 5.1, and its staleness manager.

    Args:
        version: v, the trainer's.
        accepted: samples that ended since version 0 and count: trained on already, or waiting for it.
        running: samples started and not ended.
        batch: B, samples of a training step.
        eta: η, how many versions ahead may be sampled; 0 is synchronous training.
        most_running: samples at once, whatever their age; ``None`` for no such limit.
    """
    fresh = (eta + version + 1) * batch - (accepted + running)
    return fresh if most_running is None else min(most_running - running, fresh)


def overdue(left: Iterable[int], *, version: int, bound: int, batch: int, after: int = 0) -> int | None:
    """Whether a batch would leave more behind than can still be trained on in time.

    After it, samples of version w or older may be trained on in the rest of its step and in the ``w + bound −
    v`` steps that follow, so ``after + (w + bound − v)·B`` of them may be left, for any w. A schedule by
    earliest deadline; inferred.

    Args:
        left: versions of the samples that the batch leaves, under way or waiting.
        version: v, the trainer's.
        bound: the greatest age that may be trained on.
        batch: B, samples of a training step.
        after: samples that the same step trains on after the batch.

    Returns:
        The first w of which too many are left, or ``None``.
    """
    counts, outstanding = Counter(left), 0
    for oldest in sorted(counts):
        outstanding += counts[oldest]
        if outstanding > after + max(0, oldest + bound - version) * batch:
            return oldest
    return None


def newest_versions(versions: Sequence[int], keep: int = 2) -> list[bool]:
    """Which samples may be used: those of the ``keep`` newest versions there are. ``[N]`` to ``[N]``.

    DART's experience pool uses the newest two (``top_mvs_n``). Versions that drew none of the samples do not
    count.

    Raises:
        ValueError: ``keep`` is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}: at least the newest version must be usable.")
    newest = set(sorted(set(versions), reverse=True)[:keep])
    return [version in newest for version in versions]


@dataclass
class DeferredSwap:
    """When a rollout worker takes new weights: at an idle moment, or when they can wait no longer.

    After AsyncFlow's delayed parameter update. That a swap is due when ``latest − serving`` would exceed k is
    inferred from its description.

    Args:
        serving: the version that is being sampled from.
        k: how many versions the worker may be behind.
        staged: the newest version it was given, in host memory.
    """

    serving: int = 0
    k: int = 1
    staged: int = field(default=-1)

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"k={self.k}: a worker cannot be ahead of the trainer.")
        self.staged = max(self.staged, self.serving)

    def offer(self, version: int) -> bool:
        """Stage newer weights; whether they have to be swapped in before any new request."""
        self.staged = max(self.staged, version)
        return self.due

    @property
    def due(self) -> bool:
        """Whether the worker is too far behind to take a new request."""
        return self.staged - self.serving > self.k

    def swap(self) -> int:
        """Serve what is staged, versions in between skipped: when idle, or when it is due."""
        self.serving = self.staged
        return self.serving


@dataclass(frozen=True, slots=True)
class Batch:
    """What one training step takes.

    Args:
        version: the trainer's before the step.
        samples: names, the oldest first.
        ages: of each. ``[N]``
    """

    version: int
    samples: tuple[str, ...]
    ages: tuple[int, ...]

    @property
    def histogram(self) -> dict[int, int]:
        """Samples by age."""
        return dict(sorted(Counter(self.ages).items()))


class StalenessGate:
    """Says when a sample may start, which are trained on, and when the trainer may go on.

    ``start`` a sample, then ``end`` or ``reject`` it; ``take`` a batch, train, then ``advance``. At most
    ``(η + 1)·B`` samples run or wait at any time, so nothing here grows.

    Args:
        batch: B, samples of a training step.
        eta: η, how many versions ahead of the trainer may be sampled.
        bound: the greatest age that may be trained on (ScaleRL's k); by default η.
        policy: what becomes of samples beyond the bound; see :data:`Policy`.
        most_running: samples at once; ``None`` for no limit but the rule's.

    Raises:
        ValueError: a number is out of range, or ``bound`` is below η, where samples that did nothing wrong
            would be too old.
    """

    def __init__(
        self,
        *,
        batch: int,
        eta: int = 0,
        bound: int | None = None,
        policy: Policy = "drop",
        most_running: int | None = None,
    ) -> None:
        bound = eta if bound is None else bound
        if batch < 1 or eta < 0 or (most_running is not None and most_running < 1):
            raise ValueError(f"batch={batch} and most_running={most_running} start at 1, eta={eta} at 0.")
        if bound < eta:
            raise ValueError(f"bound={bound} is below eta={eta}: what is sampled ahead would be too old.")
        self.batch, self.eta, self.bound, self.policy = batch, eta, bound, policy
        self.most_running = most_running
        self.version = 0
        self.dropped: Counter[str] = Counter()
        self._accepted = 0
        self._running: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        self._taken: Batch | None = None

    @property
    def running(self) -> int:
        """Samples started and not ended."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Samples that ended and are not trained on yet."""
        return len(self._waiting)

    @property
    def capacity(self) -> int:
        """How many may be started now; see :func:`capacity`. Never negative."""
        free = capacity(
            self.version, self._accepted, self.running,
            batch=self.batch, eta=self.eta, most_running=self.most_running,
        )  # fmt: skip
        return max(0, free)

    def start(self, sample: str, version: int | None = None) -> None:
        """A sample begins.

        Args:
            sample: its name.
            version: the engine's, if it is not the trainer's.

        Raises:
            ValueError: it began already, or there is no room: ask :attr:`capacity` first.
        """
        if sample in self._running or sample in self._waiting:
            raise ValueError(f"Sample {sample!r} was started already.")
        if self.capacity < 1:
            raise ValueError(f"Sample {sample!r} may not start: version {self.version} has enough samples.")
        self._running[sample] = self.version if version is None else version

    def end(self, sample: str, oldest: int | None = None) -> bool:
        """A sample ended well and waits for the trainer, unless it is too old already.

        Args:
            oldest: the version of its oldest token; by default the version at its start.

        Returns:
            Whether it waits; else it was dropped, and counted.

        Raises:
            KeyError: it is not running.
        """
        started = self._running.pop(sample)
        version = started if oldest is None else oldest
        if self._too_old(version):
            self.dropped["too old"] += 1
            return False
        self._waiting[sample] = version
        self._accepted += 1
        return True

    def reject(self, sample: str, reason: str) -> None:
        """A sample ended and is no use, such as a void one; its place is free for another.

        Raises:
            KeyError: it is not running.
        """
        del self._running[sample]
        self.dropped[reason] += 1

    @property
    def held_up_by(self) -> list[str]:
        """Under ``wait``: running samples that the next step has to wait for; see :func:`overdue`."""
        if self.policy != "wait":
            return []
        left = Counter(self._running.values()) + Counter(self._waiting.values())
        left.subtract(version for _, version in self._oldest())
        late = overdue(left.elements(), version=self.version, bound=self.bound, batch=self.batch)
        return [] if late is None else [name for name, begun in self._running.items() if begun <= late]

    def take(self) -> Batch | None:
        """The next batch, the oldest samples first, or ``None`` where there is none yet.

        Under ``wait`` there is none either while :attr:`held_up_by` names a sample.

        Raises:
            ValueError: the batch taken before was not trained on.
        """
        if self._taken is not None:
            raise ValueError(f"The batch of version {self.version} was taken already: advance() first.")
        if len(self._waiting) < self.batch or self.held_up_by:
            return None
        chosen = self._oldest()
        ages = tuple(self.version - oldest for _, oldest in chosen)
        self._taken = Batch(self.version, tuple(name for name, _ in chosen), ages)
        return self._taken

    def advance(self) -> int:
        """The batch taken was trained on; returns the new version.

        What waits and is too old for that is dropped.

        Raises:
            ValueError: none was taken.
        """
        if self._taken is None:
            raise ValueError(f"Version {self.version} took no batch to be trained on.")
        for name in self._taken.samples:
            del self._waiting[name]
        self._taken = None
        self.version += 1
        self._drop_too_old()
        return self.version

    def give_back(self) -> None:
        """The step failed before it changed the weights: the batch taken waits again."""
        self._taken = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON data: a batch that was taken but not trained on waits again."""
        return {"version": self.version, "waiting": dict(self._waiting), "dropped": dict(self.dropped)}

    def recovered(
        self, version: int, waiting: Mapping[str, int] | None = None, dropped: Mapping[str, int] | None = None
    ) -> None:
        """Go on at a checkpoint's version, without what was running.

        What was accepted is set to ``v·B`` and what waits (AReaL's ``on_version_recovered``). Otherwise the
        rule would take the steps before for samples that are owed, and admit a burst of them.

        Args:
            version: the checkpoint's.
            waiting: samples that ended and were kept, with the versions of their oldest tokens.
            dropped: the counts so far.
        """
        lost = len(self._running)
        self.version, self._taken = version, None
        self._running, self._waiting = {}, dict(waiting or {})
        self._accepted = version * self.batch + len(self._waiting)
        self.dropped = Counter(dropped or self.dropped)
        if lost:
            self.dropped["lost at a restart"] += lost

    def _oldest(self) -> list[tuple[str, int]]:
        """The samples that wait and would be taken."""
        return heapq.nsmallest(self.batch, self._waiting.items(), key=lambda item: item[1])

    def _too_old(self, version: int) -> bool:
        return self.policy != "correct" and self.version - version > self.bound

    def _drop_too_old(self) -> None:
        old = [name for name, oldest in self._waiting.items() if self._too_old(oldest)]
        for name in old:
            del self._waiting[name]
        if old:
            self.dropped["too old"] += len(old)
            self._accepted -= len(old)  # others may be sampled in their place


def oldest_version(versions: Iterable[int]) -> int:
    """The version that drew the oldest of a sample's tokens; those not sampled have -1 and do not count.

    Raises:
        ValueError: nothing was sampled.
    """
    sampled = [version for version in versions if version >= 0]
    if not sampled:
        raise ValueError("No token of the sample was drawn by a policy, so it has no version.")
    return min(sampled)

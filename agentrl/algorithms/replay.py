"""A buffer of episodes by task: what gets in, how long it stays, and what gives way when it is full."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Generic, Literal, TypeVar

from agentrl.errors import DefinitionError

T = TypeVar("T")
Evict = Literal["oldest", "lowest"]


@dataclass(frozen=True)
class Item(Generic[T]):
    """What is stored.

    Args:
        value: the episode, in whatever form.
        task: its task's id.
        reward, advantage: when it was made.
        step: of the training, when it was made.
        version: of the policy that made it.
        calls: tool calls in it.
        source: ``local``, or where it came from.
    """

    value: T
    task: str
    reward: float
    step: int
    advantage: float = 0.0
    version: int = 0
    calls: int = 0
    source: str = "local"


def spear_admits(item: Item[T]) -> bool:
    """SPEAR's rule: a mean advantage above 0, and at least one tool call (ray_trainer_hybrid.py:425-505)."""
    return item.advantage > 0 and item.calls >= 1


def successes(item: Item[T]) -> bool:
    """TRPO-traj's and DART's rule: a reward above 0."""
    return item.reward > 0


@dataclass
class Counts:
    """What became of the items offered."""

    admitted: int = 0
    refused: int = 0
    evicted: int = 0
    aged: int = 0


@dataclass
class Buffer(Generic[T]):
    """Items by task, bounded in all directions.

    Args:
        most: items in all; when full, one gives way by ``evict``.
        per_task: items of one task; likewise.
        age: steps after which an item is dropped; ``None`` for never. SPEAR's cap is 10, its script's 5.
        admit: whether an item gets in.
        evict: the ``oldest`` gives way, or that of the ``lowest`` reward, the oldest of several.
        counts: what became of the items.

    Raises:
        DefinitionError: a limit is below 1, or an age below 0.
    """

    most: int
    per_task: int
    age: int | None = None
    admit: Callable[[Item[T]], bool] = successes
    evict: Evict = "oldest"
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        if self.most < 1 or self.per_task < 1 or (self.age is not None and self.age < 0):
            raise DefinitionError(
                f"A buffer's most={self.most} and per_task={self.per_task} are at least 1, its "
                f"age={self.age} at least 0."
            )
        if self.evict not in ("oldest", "lowest"):
            raise DefinitionError(f"evict={self.evict!r} must be 'oldest' or 'lowest'.")
        self._items: OrderedDict[int, Item[T]] = OrderedDict()
        self._by_task: dict[str, deque[int]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item[T]]:
        """From the oldest to the newest."""
        return iter(list(self._items.values()))

    def add(self, item: Item[T]) -> bool:
        """Offer an item; returns whether it got in."""
        if not self.admit(item):
            self.counts.refused += 1
            return False
        own = self._by_task.get(item.task, deque())
        if len(own) >= self.per_task:
            self._give_way(list(own))
        elif len(self._items) >= self.most:
            self._give_way(list(self._items))
        self._items[self._next] = item
        self._by_task.setdefault(item.task, deque()).append(self._next)
        self._next += 1
        self.counts.admitted += 1
        return True

    def expire(self, step: int) -> int:
        """Drop what is more than ``age`` steps old; returns how many."""
        if self.age is None:
            return 0
        old = [key for key, item in self._items.items() if step - item.step > self.age]
        for key in old:
            self._drop(key)
        self.counts.aged += len(old)
        return len(old)

    def of(self, task: str) -> list[Item[T]]:
        """A task's items, the oldest first."""
        return [self._items[key] for key in self._by_task.get(task, ())]

    def newest(self, task: str) -> Item[T] | None:
        """A task's newest item."""
        own = self._by_task.get(task)
        return self._items[own[-1]] if own else None

    def sample(self, count: int, rng: Random) -> list[Item[T]]:
        """Different items at random; all, if there are no more than ``count``."""
        keys = list(self._items)
        return [self._items[key] for key in rng.sample(keys, min(count, len(keys)))]

    def take_above(self, baseline: float, *, ready: int) -> list[Item[T]]:
        """SPEAR's use: once more than ``ready`` items have a reward above the baseline, they are returned and
        the buffer is emptied; before that, nothing. SPEAR waits for 1.5 times its buffer size."""
        above = [item for item in self._items.values() if item.reward > baseline]
        if len(above) <= ready:
            return []
        self._items.clear()
        self._by_task.clear()
        return above

    def _give_way(self, keys: list[int]) -> None:
        gone = (
            keys[0] if self.evict == "oldest" else min(keys, key=lambda key: (self._items[key].reward, key))
        )
        self._drop(gone)
        self.counts.evicted += 1

    def _drop(self, key: int) -> None:
        item = self._items.pop(key)
        own = self._by_task[item.task]
        own.remove(key)
        if not own:
            del self._by_task[item.task]

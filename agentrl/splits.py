"""The tasks to train on and those held out: made or read once, and never the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

from agentrl.errors import ConfigError
from agentrl.task import Task

SPLITS = ("train", "test")
TEST_SHARE = 4

Make = Callable[[str, set[Hashable]], Iterable[Task]]


def by_prompt(task: Task) -> Hashable:
    """Tasks with the same prompt are the same."""
    return task.prompt


class Splits:
    """The tasks of ``train`` and ``test``. Call it with the split's name.

    ``test`` is made first, so what is held out does not depend on how much there is to train on; what it
    holds is left out of ``train``. For an environment's ``tasks``::

        def __init__(self):
            super().__init__()
            self._splits = Splits(lambda split, held_out: read_my_tasks(split))

        def tasks(self, split):
            return self._splits(split)

    Args:
        make: the tasks of a split. It is also given the keys that are held out (none for ``test``), for
            makers that go on until they have enough; it may add to them.
        key: what makes two tasks the same.
        names: of the splits, if others are allowed; ``None``: any that ``make`` knows.
    """

    def __init__(
        self,
        make: Make,
        *,
        key: Callable[[Task], Hashable] = by_prompt,
        names: tuple[str, ...] | None = SPLITS,
    ) -> None:
        self._make, self._key, self._names = make, key, names
        self._made: dict[str, list[Task]] = {}

    def __call__(self, split: str) -> list[Task]:
        """The tasks of a split.

        Raises:
            ConfigError: the split is unknown.
        """
        if self._names is not None and split not in self._names:
            known = " and ".join(map(repr, self._names))
            raise ConfigError(f"There is no split {split!r}; there are {known}.")
        if split not in self._made:
            held_out = {self._key(task) for task in self("test")} if split == "train" else set()
            made = self._make(split, set(held_out))
            self._made[split] = [task for task in made if self._key(task) not in held_out]
        return self._made[split]


def split_size(split: str, size: int, most: int) -> int:
    """How many tasks a made-up split has: ``size`` to train on; a quarter, at most ``most``, held out."""
    return size if split == "train" else min(most, size // TEST_SHARE)

"""Where inside stored successes the groups of a step begin (Snapshot RL)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random

from agentrl.algorithms.spec import Ramp
from agentrl.rollout.control import StoredStarts
from agentrl.rollout.control_part import Control
from agentrl.train.marked import Marked
from agentrl.trajectory import Message

START = "start"
"""The column by which the episode loop learns what is done first, as JSON; empty: nothing is."""

SHARE = 0.5
"""Of groups, at the first step, where nothing else is said."""


class Starts:
    """The newest success of each task, and a draw of places in it.

    All episodes of a group begin at the same place, so that what they are compared with is their like.

    Args:
        how: see :class:`agentrl.rollout.control.StoredStarts`.
        steps: of the training.
        seed: of what is drawn.

    Attributes:
        counts: of episodes that began so.
    """

    def __init__(self, how: StoredStarts, *, steps: int, seed: int) -> None:
        falling = Ramp(start=SHARE, end=0.0, until=max(1, steps - 1))
        self._share = falling if how.share is None else how.share
        self._seed = seed
        self._said: dict[str, list[Message]] = {}
        self.counts = Marked("started", "starts")

    @classmethod
    def of(cls, control: Control, *, steps: int, seed: int) -> Starts | None:
        """What an algorithm's episodes begin inside of; ``None``: they begin where their tasks do."""
        return cls(control, steps=steps, seed=seed) if isinstance(control, StoredStarts) else None

    def __len__(self) -> int:
        return len(self._said)

    def add(self, task: str, said: Sequence[Message]) -> None:
        """Keep what the policy said in a success, from the task's own beginning on."""
        if len(said) > 1:  # else no turn is left behind the first
            self._said[task] = list(said)

    def draw(self, task: str, place: int, step: int) -> str:
        """What a group does first.

        Args:
            task: its task's id.
            place: the group's among those that are drawn together.
            step: counted from 0.
        """
        said, share = self._said.get(task), self._share
        rng = Random(f"{self._seed}-{step}-{place}-{task}")
        if said is None or rng.random() >= (share.at(step) if isinstance(share, Ramp) else share):
            return ""
        return json.dumps(said[: rng.randrange(1, len(said))])

    def take_told(self) -> dict[str, float]:
        """This step's numbers by the metric's name; they begin anew."""
        return self.counts.take_told(len(self))

    def state(self) -> dict[str, list[Message]]:
        """For a checkpoint."""
        return dict(self._said)

    def load(self, state: Mapping[str, list[Message]]) -> None:
        """What :meth:`state` gave."""
        self._said = dict(state)

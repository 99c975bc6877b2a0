"""Questions about towns that do not exist: no policy knows the answers, so it has to ask who does.

A town has a number for a name, because a small policy copies digits long before it copies words. Its facts
are made of the name, so every process knows the same ones.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass

from agentrl import Task


@dataclass(frozen=True)
class Topic:
    """A kind of question.

    Args:
        question: with ``{town}``.
        least, most: what a right answer can be.
    """

    question: str
    least: int
    most: int


TOPICS: Mapping[str, Topic] = {
    "founding": Topic("When was town {town} founded?", 1000, 1999),
    "river": Topic("How long is the river of town {town}?", 100, 999),
    "trade": Topic("How many ships has town {town}?", 100, 999),
}

TOWNS = range(1000, 10000)
MOST_TEST = 512
MOST_TRAIN = len(TOWNS) - MOST_TEST


def towns() -> list[int]:
    """All of them, in an order that never changes."""
    return random.Random("towns").sample(TOWNS, len(TOWNS))


def make(split: str, size: int, seed: int) -> list[Task]:
    """The tasks of a split, one for each of its towns; the splits share none.

    Args:
        split: ``train`` or ``test``.
        size: how many; at most :data:`MOST_TRAIN` or :data:`MOST_TEST`.
        seed: other towns of the train split.
    """
    known = towns()
    chosen = known[:MOST_TEST] if split == "test" else random.Random(seed).sample(known[MOST_TEST:], size)
    names = itertools.cycle(TOPICS)
    return [_task(town, name) for town, name in zip(chosen[:size], names, strict=False)]


def _task(town: int, name: str) -> Task:
    topic = TOPICS[name]
    answer = random.Random(f"{name} of {town}").randint(topic.least, topic.most)
    return Task(topic.question.format(town=town), answer=str(answer), metadata={"topic": name})

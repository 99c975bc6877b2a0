"""Questions about towns that do not exist: no policy knows the answers, so it has to ask who does.

A town's facts are made of its name, so every process knows the same ones.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agentrl import Task

SYLLABLES = (
    "bar", "bel", "cor", "dun", "el", "far", "gal", "hol", "im", "jor", "kel", "lan",
    "mor", "nor", "or", "pel", "quin", "ros", "sel", "tam", "ul", "ver", "wen", "zal",
)  # fmt: skip


def _river(rng: random.Random) -> str:
    return "the " + "".join(rng.sample(SYLLABLES, 2)).capitalize()


@dataclass(frozen=True)
class Topic:
    """A kind of question.

    Args:
        question: with ``{town}``.
        answer: makes the answer.
    """

    question: str
    answer: Callable[[random.Random], str]


TOPICS: Mapping[str, Topic] = {
    "founding": Topic("When was {town} founded?", lambda rng: str(rng.randint(1000, 1999))),
    "river": Topic("Which river crosses {town}?", _river),
    "trade": Topic("How many ships has {town}?", lambda rng: str(rng.randint(100, 999))),
}

MOST_TEST = 512
MOST_TRAIN = len(SYLLABLES) ** 3 - MOST_TEST


def towns() -> list[str]:
    """All of them, in an order that never changes."""
    names = ["".join(parts).capitalize() for parts in itertools.product(SYLLABLES, repeat=3)]
    random.Random("towns").shuffle(names)
    return names


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
    return [_task(town, topic) for town, topic in zip(chosen[:size], names, strict=False)]


def _task(town: str, name: str) -> Task:
    topic = TOPICS[name]
    answer = topic.answer(random.Random(f"{name} of {town}"))
    return Task(topic.question.format(town=town), answer=answer, metadata={"topic": name})

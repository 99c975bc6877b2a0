"""The smallest repairs: a function of one line that does not do what its docstring says.

Which formula is right stands in the file alone, so that who does not look cannot know it.
"""

from __future__ import annotations

import itertools
import random

from agentrl import ConfigError, Task
from agentrl.envs.swe.repairs import Repair
from agentrl.rewards.tests import Suite

FILE, TESTS = "f.py", "test_f.py"
NAMES = ["area", "cost", "count", "fee", "gain", "load", "mass", "pay", "price", "rate", "score", "sum",
         "tax", "total", "width"]  # fmt: skip
VARIABLES = [f"x{number}" for number in range(10)]
OPERATORS = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
}
CASES = 6
MOST_MISSED = 1000
"""Draws in a row that were there already, after which there are no more."""


class Tiny:
    """Made-up functions.

    Args:
        size: tasks of ``train``; ``test`` has ``test_size``.
        seed: of them. No function stands in both splits.
    """

    hidden: tuple[str, ...] = ()

    def __init__(self, size: int, test_size: int, seed: int) -> None:
        self._sizes, self._seed = {"test": test_size, "train": size}, seed

    def tasks(self, split: str) -> list[Task]:
        """The same on every call.

        Raises:
            ConfigError: there are not so many.
        """
        rng, used = random.Random(f"swe {self._seed}"), set[tuple[str, str]]()
        drawn: dict[str, list[Task]] = {}
        for name, size in self._sizes.items():
            drawn[name], missed = [], 0
            while len(drawn[name]) < size:
                task = make(rng)
                key = (task.metadata["right"], task.metadata["name"])
                missed = missed + 1 if key in used else 0
                if missed > MOST_MISSED:
                    raise ConfigError(
                        f"There are not so many functions: {len(used)} were found. Choose a smaller size."
                    )
                if not missed:
                    used.add(key)
                    drawn[name].append(task)
        return drawn[split]

    def repair(self, task: Task) -> Repair:
        """A file and its tests, of which the episode sees the file alone."""
        data = task.metadata
        right, wrong = data["right"], data["wrong"]
        source = written(data["name"], right, wrong)
        fixed = written(data["name"], right, right)
        suite = Suite(
            fail_to_pass=[f"{TESTS}::test_{data['name']}"],
            files={TESTS: tests(data["name"], right, wrong, data["seed"]).encode()},
            gold={FILE: fixed.encode()},
        )
        return Repair({FILE: source.encode()}, suite)


def make(rng: random.Random) -> Task:
    """A random task."""
    first, second = rng.sample(VARIABLES, 2)
    one, two = rng.choice("+-*"), rng.choice("+-*")
    number = rng.randint(2, 9)
    right = f"{first} {one} {second} {two} {number}"
    while not _differs(right, wrong := mistaken(right, rng)):
        pass
    name = rng.choice(NAMES)
    return Task(
        f"Fix {name} in {FILE}.",
        metadata={"name": name, "right": right, "wrong": wrong, "seed": rng.randrange(1 << 30)},
    )


def mistaken(formula: str, rng: random.Random) -> str:
    """A formula in which one operator or the number may be another one."""
    changed, place = formula.split(), rng.choice([1, 3, 4])
    changed[place] = str(rng.randint(2, 9)) if place == 4 else rng.choice("+-*")
    return " ".join(changed)


def _differs(right: str, wrong: str) -> bool:
    """Whether arguments exist on which the formulas differ: not so for 2 + 2 and 2 * 2 everywhere."""
    return any(value(right, x, y) != value(wrong, x, y) for x, y in itertools.product((3, 7, 11), (2, 5, 13)))


def value(formula: str, x: int, y: int) -> int:
    """The value of ``x op y op number``, with the usual precedence."""
    _, one, _, two, number = formula.split()
    if two == "*" and one != "*":
        return int(OPERATORS[one](x, y * int(number)))
    return int(OPERATORS[two](OPERATORS[one](x, y), int(number)))


def written(name: str, documented: str, formula: str) -> str:
    """The file."""
    first, _, second, *_ = documented.split()
    return f'def {name}({first}, {second}):\n    """{documented}"""\n    return {formula}\n'


def tests(name: str, right: str, wrong: str, seed: int) -> str:
    """Six cases, on at least one of which the mistaken formula fails."""
    rng = random.Random(seed)
    while True:
        cases = [(rng.randint(2, 40), rng.randint(2, 40)) for _ in range(CASES)]
        if any(value(right, x, y) != value(wrong, x, y) for x, y in cases):
            break
    checks = "".join(f"    assert {name}({x}, {y}) == {value(right, x, y)}\n" for x, y in cases)
    return f"from {FILE.removesuffix('.py')} import {name}\n\n\ndef test_{name}():\n{checks}"

"""Families of arithmetic tasks: reasoning-gym writes the questions, a line of Python solves them.

The generators' own answers are the gold ones. ``code`` sees the question alone, as a policy does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentrl import ConfigError, Task


@dataclass(frozen=True)
class Family:
    """One kind of question.

    Args:
        generator: its name in reasoning-gym.
        levels: the generator's settings for difficulty 1, 2 and 3.
        code: the line of Python that answers a question.
        slip: the same with a plausible mistake, always answering something else or nearly always.
    """

    generator: str
    levels: Sequence[Mapping[str, Any]]
    code: Callable[[str], str]
    slip: Callable[[str], str]


def _expression(question: str) -> str:
    """The arithmetic in a question, as it stands there."""
    found = re.search(r"[-( ]*[0-9][-+*/.() 0-9]*", question)
    assert found is not None, question
    return found[0].strip().rstrip(". ")


def _evaluate(question: str) -> str:
    return f"print({_expression(question)})"


def _swap_operator(question: str) -> str:
    """The last operator mistaken for another one."""
    return _swapped(_evaluate(question))


def _swapped(code: str) -> str:
    *_, last = re.finditer(r" ([-+*]|//) ", code)
    return f"{code[: last.start(1)]}{_MISTAKEN[last[1]]}{code[last.end(1) :]}"


_MISTAKEN = {"+": "-", "-": "+", "*": "+", "//": "*"}


def _divide(question: str) -> str:
    """Every division comes out even, and whole numbers stay exact."""
    return _evaluate(question).replace("/", "//")


def _decimal(question: str) -> str:
    return f"print(round({_expression(question)}, 4))"


def _numbers(question: str) -> list[str]:
    return re.findall(r"[0-9]+", question)


def _call(function: str) -> Callable[[str], str]:
    def code(question: str) -> str:
        return f"import math; print(math.{function}({', '.join(_numbers(question))}))"

    return code


def _count_bits(question: str) -> str:
    return f"print(bin({_numbers(question)[-1]}).count('1'))"


def _count_digits(question: str) -> str:
    """All binary digits, not the ones among them."""
    return f"print(({_numbers(question)[-1]}).bit_length())"


def _count_primes(question: str) -> str:
    low, high = _numbers(question)
    prime = "all(n % d for d in range(2, int(n**0.5) + 1))"
    return f"print(sum({prime} for n in range(max(2, {low}), {high} + 1)))"


def _count_odd(question: str) -> str:
    low, high = _numbers(question)
    return f"print(sum(n % 2 for n in range({low}, {high} + 1)))"


def _flip(question: str, *, forgotten: int = 0) -> str:
    heads, flips = map(int, _numbers(question))
    most = flips if "at least" in question else heads
    ways = f"sum(math.comb({flips}, k) for k in range({heads}, {most + 1}))"
    return f"import math; print({ways} / 2**{flips - forgotten})"


_EQUATION = re.compile(
    r"(?:(?P<before>-?\d+) (?P<minus>[-+]) )?(?P<negative>-)?(?:(?P<factor>\d+)\*)?[a-z]"
    r"(?: (?P<sign>[-+]) (?P<after>\d+))? = (?P<right>-?\d+)$"
)


def _solve(question: str, *, swapped: bool = False) -> str:
    """``37*k + 66 = 1213`` by ``print((1213 - 66) // 37)``."""
    parts = _EQUATION.search(question)
    assert parts is not None, question
    known: str = parts["right"]
    moved = {"+": "-", "-": "+"}
    if parts["after"]:
        known += f" {parts['sign'] if swapped else moved[parts['sign']]} {parts['after']}"
    if parts["before"]:
        known += f" {'+' if swapped else '-'} {parts['before']}"
    downward = parts["negative"] or parts["minus"] == "-"
    return f"print(({known}) // {'-' if downward else ''}{parts['factor'] or 1})"


def _digits(low: int, high: int, terms: int, **more: Any) -> dict[str, Any]:
    return {"min_digits": low, "max_digits": high, "min_terms": 2, "max_terms": terms, **more}


def _values(low: int, high: int, **more: Any) -> dict[str, Any]:
    return {"min_value": low, "max_value": high, **more}


# allow_parentheses=False would have reasoning-gym compute 50 + 83 * 6 from left to right.
_PLAIN = {"operators": ("+", "-", "*"), "allow_negation": False, "allow_parentheses": True}
_LINEAR = {"min_terms": 2, "max_terms": 2, "operators": ("+", "-", "*"), "operators_weights": [0.5, 0.5, 0.0]}

_DIVIDED = {**_PLAIN, "operators": ("+", "-", "*", "/")}
_PLACES = {"min_decimal_places": 1, "max_decimal_places": 2}

# A family's place here decides its seeds: new ones go last, or the questions of the others would change.
FAMILIES: dict[str, Family] = {
    "basic_arithmetic": Family(
        "basic_arithmetic",
        (_digits(2, 2, 2, **_PLAIN), _digits(2, 3, 3, **_PLAIN), _digits(3, 3, 5, **_PLAIN)),
        _evaluate,
        _swap_operator,
    ),
    "chain_sum": Family(
        "chain_sum", (_digits(2, 3, 3), _digits(3, 3, 4), _digits(4, 4, 6)), _evaluate, _swap_operator
    ),
    "gcd": Family(
        "gcd", (_values(10, 99), _values(100, 999), _values(1000, 9999)), _call("gcd"), _call("lcm")
    ),
    "lcm": Family("lcm", (_values(10, 99), _values(50, 400), _values(500, 5000)), _call("lcm"), _call("gcd")),
    "products": Family(
        "products", (_digits(2, 2, 2), _digits(3, 3, 2), _digits(4, 4, 2)), _evaluate, _swap_operator
    ),
    "simple_equations": Family(
        "simple_equations",
        (_values(2, 30, **_LINEAR), _values(10, 99, **_LINEAR), _values(100, 999, **_LINEAR)),
        _solve,
        lambda question: _solve(question, swapped=True),
    ),
    "count_bits": Family(
        "count_bits",
        ({"min_n": 100, "max_n": 10**4}, {"min_n": 10**4, "max_n": 10**6}, {"min_n": 10**8, "max_n": 10**10}),
        _count_bits,
        _count_digits,
    ),
    "count_primes": Family(
        "count_primes",
        ({"min_n": 1, "max_n": 100}, {"min_n": 1, "max_n": 1000}, {"min_n": 1, "max_n": 10**4}),
        _count_primes,
        _count_odd,
    ),
    "decimal_sums": Family(
        "decimal_chain_sum",
        (_digits(1, 2, 2, **_PLACES), _digits(2, 3, 3, **_PLACES), _digits(3, 4, 5, **_PLACES)),
        _decimal,
        lambda question: _swapped(_decimal(question)),
    ),
    "signed_sums": Family(
        "chain_sum",
        tuple(_digits(*level, allow_negation=True) for level in ((2, 2, 3), (2, 3, 4), (4, 4, 6))),
        _evaluate,
        _swap_operator,
    ),
    "divisions": Family(
        "basic_arithmetic",
        (_digits(2, 2, 2, **_DIVIDED), _digits(2, 3, 3, **_DIVIDED), _digits(3, 3, 5, **_DIVIDED)),
        _divide,
        lambda question: _swapped(_divide(question)),
    ),
    "triple_products": Family(
        "products",
        tuple(_digits(low, high, 3) | {"min_terms": 3} for low, high in ((2, 2), (2, 3), (3, 4))),
        _evaluate,
        _swap_operator,
    ),
    "triple_lcm": Family(
        "lcm",
        tuple(_values(*level, min_numbers=3, max_numbers=3) for level in ((10, 40), (20, 99), (100, 999))),
        _call("lcm"),
        _call("gcd"),
    ),
    "coin_flips": Family(
        "coin_flip",
        tuple({"min_trials": low, "max_trials": high} for low, high in ((4, 30), (20, 60), (40, 90))),
        _flip,
        lambda question: _flip(question, forgotten=1),
    ),
}


MOST_MISSES = 100
"""Known questions drawn in a row before a family counts as used up."""


def draw(name: str, difficulty: int, first: int, count: int, skip: set[Hashable]) -> Iterator[Task]:
    """Yield ``count`` tasks of a family, none of whose prompts is in ``skip``, which they join.

    Args:
        name: a key of :data:`FAMILIES`.
        difficulty: 1, 2 or 3.
        first: the seed of the first question; each further one takes the next.

    Raises:
        ConfigError: the family has too few different questions, or reasoning-gym is not installed.
    """
    try:
        import reasoning_gym
    except ImportError as problem:
        raise ConfigError(
            "The questions of math come from reasoning-gym: pip install 'agentrl[math]'."
        ) from problem

    family = FAMILIES[name]
    settings = family.levels[difficulty - 1]
    questions = reasoning_gym.create_dataset(family.generator, seed=first, size=1 << 31, **settings)
    found = misses = 0
    for index in itertools.count():
        if found == count:
            return
        if misses == MOST_MISSES:
            raise ConfigError(
                f"Family {name!r} at difficulty {difficulty} has hardly more than {found} questions "
                f"and {count} were asked for: lower size, raise difficulty or add families."
            )
        row = questions[index]
        prompt = row["question"].strip()
        if prompt in skip:
            misses += 1
            continue
        skip.add(prompt)
        found, misses = found + 1, 0
        yield Task(prompt, answer=row["answer"].strip(), metadata={"family": name})

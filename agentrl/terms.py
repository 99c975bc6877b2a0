"""What rewards are put together with: sums, products, bounds and gates.

A term is read off the record of an episode: the components' values stand there by name, and a term
says what becomes of them. It is therefore a pure function of the episode.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from agentrl.errors import DefinitionError

if TYPE_CHECKING:
    from agentrl.reward import Reward
    from agentrl.trajectory import Trajectory

Place = Literal["episode", "turn", "both"]


@dataclass(slots=True)
class Amount:
    """What a term is worth, and where: ``episode`` on the last sampled token, ``turns`` on each turn's."""

    episode: float = 0.0
    turns: dict[int, float] = field(default_factory=dict)

    def scaled(self, factor: float) -> Amount:
        """All of it, ``factor`` times."""
        return Amount(self.episode * factor, {index: value * factor for index, value in self.turns.items()})

    def plus(self, other: Amount) -> Amount:
        """Both, each part where it lies."""
        turns = dict(self.turns)
        for index, value in other.turns.items():
            turns[index] = turns.get(index, 0.0) + value
        return Amount(self.episode + other.episode, turns)

    def total(self) -> float:
        """The number it adds up to."""
        return self.episode + sum(self.turns.values())


class Term(ABC):
    """Part of a reward: a component, or an expression of components.

    Terms take ``+``, ``-``, ``*``, comparisons (1 where they hold, else 0), :meth:`clip` and
    :meth:`total`. A number in an expression counts once per episode.
    """

    place: Place = "episode"

    def parts(self) -> tuple[Term, ...]:
        """The terms it is made of."""
        return ()

    @abstractmethod
    def amount(self, episode: Trajectory) -> Amount | None:
        """Its worth by the episode's record; ``None`` if a component it needs has no value there."""

    def components(self) -> Iterator[Reward]:
        """The components it uses, in the order written; one that is used twice comes twice."""
        for part in self.parts():
            yield from part.components()

    @abstractmethod
    def bind(self, owner: object) -> Term:
        """The term for one instance of the class whose methods it uses."""

    def clip(self, low: float | None = None, high: float | None = None) -> Term:
        """Kept within bounds: the episode's value, or every turn's; ``total().clip()`` bounds their sum."""
        return Clip(self, low, high)

    def total(self) -> Term:
        """The sum over turns, as one value of the episode."""
        return Total(self)

    def __add__(self, other: Term | float) -> Term:
        return Sum(self, term(other))

    def __radd__(self, other: float) -> Term:
        return self if other == 0 else Sum(term(other), self)  # sum() begins with 0

    def __sub__(self, other: Term | float) -> Term:
        return Sum(self, -term(other))

    def __rsub__(self, other: float) -> Term:
        return Sum(term(other), -self)

    def __mul__(self, other: Term | float) -> Term:
        return Product(self, term(other))

    def __rmul__(self, other: float) -> Term:
        return Product(term(other), self)

    def __neg__(self) -> Term:
        return Constant(-self.value) if isinstance(self, Constant) else Product(Constant(-1.0), self)

    def __gt__(self, other: Term | float) -> Term:
        return Above(self, term(other), or_equal=False)

    def __ge__(self, other: Term | float) -> Term:
        return Above(self, term(other), or_equal=True)

    def __lt__(self, other: Term | float) -> Term:
        return Above(term(other), self, or_equal=False)

    def __le__(self, other: Term | float) -> Term:
        return Above(term(other), self, or_equal=True)


Shape = Callable[[Sequence[Term]], list[Term]]
"""What an algorithm makes of an environment's terms, to be trained on in their place."""


def term(value: Term | float) -> Term:
    """A term as it is, or a number as a term.

    Raises:
        DefinitionError: it is neither, not finite, or a component whose own weight is not 1.
    """
    if isinstance(value, Term):
        if getattr(value, "weight", 1.0) != 1.0:
            raise DefinitionError(
                f"Reward {value} has weight={value.weight:g} of its own and stands in an expression, "  # type: ignore[attr-defined]
                "where weights are written as factors. Take weight= away and write the factor."
            )
        return value
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return Constant(float(value))
    raise DefinitionError(
        f"Rewards are put together of rewards and finite numbers, not of {value!r}. "
        "A function becomes a reward by @reward."
    )


def has_components(part: Term) -> bool:
    """Whether a term uses any component at all."""
    return next(part.components(), None) is not None


def _single(part: Term, what: str) -> Term:
    """The part, if it is one number per episode.

    Raises:
        DefinitionError: it has values per turn.
    """
    if part.place != "episode":
        raise DefinitionError(f"{what} takes one number per episode, and {part} has one per turn. "
                              f"Sum them up first: ({part}).total().")  # fmt: skip
    return part


class Constant(Term):
    """A number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def bind(self, owner: object) -> Term:
        """Itself."""
        return self

    def amount(self, episode: Trajectory) -> Amount | None:
        """The number, on the episode's last token."""
        return Amount(self.value)

    def __str__(self) -> str:
        return f"{self.value:g}"


class _Operation(Term):
    """A term of several others."""

    def __init__(self, *parts: Term) -> None:
        self._parts = tuple(term(part) for part in parts)
        places = {part.place for part in self._parts}
        self.place = places.pop() if len(places) == 1 else "both"

    def parts(self) -> tuple[Term, ...]:
        """The terms it is made of."""
        return self._parts

    def remade(self, parts: tuple[Term, ...]) -> Term:
        """The same operation on other parts."""
        return type(self)(*parts)

    def bind(self, owner: object) -> Term:
        """The same operation on its parts, bound."""
        return self.remade(tuple(part.bind(owner) for part in self._parts))


class Sum(_Operation):
    """Terms added up. A part without a value is left out; without any, the sum has none."""

    def amount(self, episode: Trajectory) -> Amount | None:
        """The parts' sum, each where it lies."""
        amounts = [part.amount(episode) for part in self._parts]
        judging = [amount for part, amount in zip(self._parts, amounts, strict=True) if has_components(part)]
        if judging and all(amount is None for amount in judging):
            return None  # a number alone is no judgement
        whole = Amount()
        for amount in amounts:
            whole = whole if amount is None else whole.plus(amount)
        return whole

    def __str__(self) -> str:
        first, second = map(str, self._parts)
        return f"{first} - {second[1:]}" if second.startswith("-") else f"{first} + {second}"


class Product(_Operation):
    """One term times another, of which one at least is a number per episode."""

    def __init__(self, first: Term, second: Term) -> None:
        super().__init__(first, second)
        if self._parts[0].place != "episode":
            _single(self._parts[1], "One factor of a product")
        scaled = self._parts[1] if self._parts[0].place == "episode" else self._parts[0]
        self.place = scaled.place

    def amount(self, episode: Trajectory) -> Amount | None:
        """The product, where the factor with several values has them."""
        first, second = (part.amount(episode) for part in self._parts)
        if first is None or second is None:
            return None
        if self._parts[0].place == "episode":
            return second.scaled(first.episode)
        return first.scaled(second.episode)

    def __str__(self) -> str:
        first, second = (f"({part})" if isinstance(part, Sum) else str(part) for part in self._parts)
        return f"-{second}" if first == "-1" else f"{first} * {second}"


class Clip(_Operation):
    """A term kept within bounds."""

    def __init__(self, inner: Term, low: float | None, high: float | None) -> None:
        super().__init__(inner)
        if self.place == "both":
            raise DefinitionError(f"clip() has values per turn and per episode to bound in {inner}. "
                                  "Bound the parts, or their sum with total().clip().")  # fmt: skip
        if (low is None and high is None) or (low is not None and high is not None and low > high):
            raise DefinitionError(f"clip({low}, {high}): give a low bound, a higher one, or both.")
        self.low = -math.inf if low is None else low
        self.high = math.inf if high is None else high

    def remade(self, parts: tuple[Term, ...]) -> Term:
        """The same bounds around another term."""
        return Clip(parts[0], self.low, self.high)

    def amount(self, episode: Trajectory) -> Amount | None:
        """The value, or each turn's, within the bounds."""
        found = self._parts[0].amount(episode)
        if found is None:
            return None
        if self.place == "turn":
            return Amount(turns={index: self._bounded(value) for index, value in found.turns.items()})
        return Amount(self._bounded(found.episode))

    def _bounded(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def __str__(self) -> str:
        return f"({self._parts[0]}).clip({self.low:g}, {self.high:g})"


class Total(_Operation):
    """The sum over turns as one value of the episode."""

    def __init__(self, inner: Term) -> None:
        super().__init__(inner)
        self.place = "episode"

    def amount(self, episode: Trajectory) -> Amount | None:
        """All of it on the last sampled token."""
        found = self._parts[0].amount(episode)
        return None if found is None else Amount(found.total())

    def __str__(self) -> str:
        return f"({self._parts[0]}).total()"


class Above(_Operation):
    """1 where one term is greater than another, else 0."""

    def __init__(self, greater: Term, less: Term, *, or_equal: bool) -> None:
        super().__init__(_single(term(greater), "A comparison"), _single(term(less), "A comparison"))
        self.or_equal = or_equal

    def remade(self, parts: tuple[Term, ...]) -> Term:
        """The same comparison of other terms."""
        return Above(*parts, or_equal=self.or_equal)

    def amount(self, episode: Trajectory) -> Amount | None:
        """1 or 0."""
        greater, less = (part.amount(episode) for part in self._parts)
        if greater is None or less is None:
            return None
        holds = greater.episode > less.episode or (self.or_equal and greater.episode == less.episode)
        return Amount(float(holds))

    def __bool__(self) -> bool:
        raise DefinitionError(
            f"Whether {self} holds is known of an episode only. Use gate(...); for 'and' write "
            "(a > 0) * (b > 0), and split 0 < a < 1 in two."
        )

    def __str__(self) -> str:
        return f"({self._parts[0]} {'>=' if self.or_equal else '>'} {self._parts[1]})"


class Gate(_Operation):
    """One term where a condition holds, another where it does not. Made by :func:`gate`."""

    def __init__(self, condition: Term, then: Term, otherwise: Term) -> None:
        super().__init__(_single(term(condition), "A gate's condition"), then, otherwise)
        branches = [part for part in self._parts[1:] if not (isinstance(part, Constant) and part.value == 0)]
        places = {part.place for part in branches} or {"episode"}
        self.place = places.pop() if len(places) == 1 else "both"

    def amount(self, episode: Trajectory) -> Amount | None:
        """The chosen term's; none where the condition has no value."""
        condition = self._parts[0].amount(episode)
        if condition is None:
            return None
        return self._parts[1 if condition.episode > 0 else 2].amount(episode)

    def __str__(self) -> str:
        condition, then, otherwise = self._parts
        return f"gate({condition}, then={then}, otherwise={otherwise})"


def gate(condition: Term, then: Term | float, otherwise: Term | float = 0.0) -> Term:
    """A reward that depends on another one.

    Args:
        condition: holds where it is above 0: a component such as ``correct``, or a comparison
            such as ``correct >= 0.5``. One number per episode.
        then: what counts where it holds.
        otherwise: what counts where it does not.

    Raises:
        DefinitionError: the condition has values per turn.
    """
    return Gate(condition, term(then), term(otherwise))

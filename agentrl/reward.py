"""Rewards: functions of a finished episode, of one of its turns, or of all episodes of a task."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, get_args, overload

from agentrl.errors import AgentRLError, DefinitionError, UserCodeError
from agentrl.terms import Amount, Term
from agentrl.trajectory import Trajectory, Turn

Per = Literal["episode", "turn", "group"]
OnNoVerdict = Literal["void", "leave out"]


class Reward(Term):
    """One reward component. Made by :func:`reward`.

    Args:
        function: ``(episode) -> float``; per turn ``(episode, turn) -> float``; per group
            ``(episodes) -> list of floats``, one for each. May be async.
        name: under which it is logged.
        weight: its factor in the sum that is trained on. In an expression factors are written out.
        per: whether it judges the ``episode``, each ``turn``, or the ``group`` of a task's episodes.
        no_verdict: what :class:`agentrl.NoVerdict` does: ``void`` the episode, or ``leave out`` the
            component, which then has no value and is logged as missing.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        weight: float = 1.0,
        per: Per = "episode",
        no_verdict: OnNoVerdict = "void",
    ) -> None:
        if per not in get_args(Per):
            raise DefinitionError(f"A reward is per 'episode', per 'turn' or per 'group', not {per!r}.")
        if no_verdict not in get_args(OnNoVerdict):
            raise DefinitionError(f"no_verdict={no_verdict!r} must be 'void' or 'leave out'.")
        functools.update_wrapper(self, function)
        self.function, self.name, self.weight, self.per = function, name, weight, per
        self.no_verdict = no_verdict
        self.place = "turn" if per == "turn" else "episode"
        self.is_method = next(iter(inspect.signature(function).parameters), "") == "self"

    def bind(self, owner: object) -> Reward:
        """A method for one instance of its class, or of one that overrides it; a function as it is."""
        if not self.is_method:
            return self
        override = inspect.getattr_static(type(owner), self.function.__name__, None)
        bound = copy.copy(override if isinstance(override, Reward) else self)
        bound.function = bound.function.__get__(owner)
        return bound

    def __get__(self, owner: object | None, _type: type | None = None) -> Any:
        return self if owner is None or not self.is_method else self.function.__get__(owner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __str__(self) -> str:
        return self.name

    def components(self) -> Iterator[Reward]:
        """Itself."""
        yield self

    def amount(self, episode: Trajectory) -> Amount | None:
        """Its value, unweighted, as it stands in the episode's record."""
        if self.per == "turn":
            judged = [turn for turn in episode.turns if self.name in turn.rewards]
            values = {turn.index: turn.rewards[self.name] for turn in judged}
            return None if not values and self.name in episode.missing else Amount(turns=values)
        value = episode.rewards.get(self.name)
        return None if value is None else Amount(value)

    async def score(self, episode: Trajectory, turn: Turn | None = None) -> float:
        """The component's value for an episode or a turn.

        Raises:
            UserCodeError: the function raised, or returned something that is no finite number.
            NoVerdict: a judge could not tell.
        """
        about = f"task {episode.task.id}"
        value = await self._asked(about, *((episode,) if turn is None else (episode, turn)))
        return self._number(value, about)

    async def score_group(self, episodes: Sequence[Trajectory]) -> list[float]:
        """The component's value for each episode of a group.

        Raises:
            UserCodeError: the function raised, or did not return one finite number per episode.
            NoVerdict: a judge could not tell.
        """
        about = f"the {len(episodes)} episodes of task {episodes[0].task.id}"
        values = await self._asked(about, episodes)
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserCodeError(
                f"Reward {self.name!r} returned {values!r}; it must return one number for each of {about}."
            )
        numbers = [self._number(value, about) for value in values]
        if len(numbers) != len(episodes):
            raise UserCodeError(f"Reward {self.name!r} returned {len(numbers)} numbers for {about}.")
        return numbers

    async def _asked(self, about: str, *args: Any) -> Any:
        try:
            value = self.function(*args)
            return await value if inspect.isawaitable(value) else value
        except AgentRLError:
            raise
        except Exception as problem:
            raise UserCodeError(
                f"Reward {self.name!r} raised {type(problem).__name__}: {problem} ({about})."
            ) from problem

    def _number(self, value: Any, about: str) -> float:
        try:
            number = float(value) if isinstance(value, bool | int | float) else math.nan
        except OverflowError:  # an integer beyond all floats
            number = math.inf
        if math.isfinite(number):
            return number
        raise UserCodeError(
            f"Reward {self.name!r} returned {value!r}; it must return a finite number ({about})."
        )


@overload
def reward(function: Callable[..., Any], /) -> Reward: ...
@overload
def reward(
    *, weight: float = 1.0, per: Per = "episode", name: str | None = None, no_verdict: OnNoVerdict = "void"
) -> Callable[[Callable[..., Any]], Reward]: ...
def reward(
    function: Callable[..., Any] | None = None,
    /,
    *,
    weight: float = 1.0,
    per: Per = "episode",
    name: str | None = None,
    no_verdict: OnNoVerdict = "void",
) -> Any:
    """Make a reward component of a function or of a method of an environment.

    Args:
        weight: its factor in the sum that is trained on; 0 logs it only.
        per: ``episode``: called once with the finished episode. ``turn``: called with the episode
            and each turn; the value lands on that turn's last token. ``group``: called once with all
            episodes of a task that count, when the last has ended; returns a value for each.
        name: by default the function's name.
        no_verdict: what :class:`agentrl.NoVerdict` from it does: ``void`` the episode, or ``leave out``
            the component.

    Raises:
        DefinitionError: ``per`` or ``no_verdict`` is unknown.
    """

    def make(inner: Callable[..., Any]) -> Reward:
        return Reward(inner, name or inner.__name__, weight, per, no_verdict)

    return make if function is None else make(function)

"""Rewards: functions of a finished episode, or of one of its turns."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, overload

from agentrl.errors import AgentRLError, DefinitionError, UserCodeError
from agentrl.trajectory import Trajectory, Turn


class Reward:
    """One reward component. Made by :func:`reward`.

    Args:
        function: ``(episode) -> float``, or ``(episode, turn) -> float`` per turn; may be async.
        name: under which it is logged.
        weight: its factor in the sum that is trained on.
        per: whether it judges the ``episode`` or each ``turn``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        weight: float = 1.0,
        per: Literal["episode", "turn"] = "episode",
    ) -> None:
        functools.update_wrapper(self, function)
        self.function, self.name, self.weight, self.per = function, name, weight, per
        self.is_method = next(iter(inspect.signature(function).parameters), "") == "self"

    def bind(self, owner: object) -> Reward:
        """The component for one instance of the class that defines the method."""
        bound = copy.copy(self)
        bound.function = self.function.__get__(owner)
        return bound

    def __get__(self, owner: object | None, _type: type | None = None) -> Any:
        return self if owner is None or not self.is_method else self.function.__get__(owner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    async def score(self, episode: Trajectory, turn: Turn | None = None) -> float:
        """The component's value.

        Raises:
            UserCodeError: the function raised, or returned something that is no finite number.
        """
        try:
            value = self.function(episode) if turn is None else self.function(episode, turn)
            if inspect.isawaitable(value):
                value = await value
        except AgentRLError:
            raise
        except Exception as problem:
            raise UserCodeError(
                f"Reward {self.name!r} raised {type(problem).__name__}: {problem} (task {episode.task.id})."
            ) from problem
        try:
            number = float(value) if isinstance(value, bool | int | float) else math.nan
        except OverflowError:  # an integer beyond all floats
            number = math.inf
        if math.isfinite(number):
            return number
        raise UserCodeError(
            f"Reward {self.name!r} returned {value!r}; it must return a finite number "
            f"(task {episode.task.id})."
        )


@overload
def reward(function: Callable[..., Any], /) -> Reward: ...
@overload
def reward(
    *, weight: float = 1.0, per: Literal["episode", "turn"] = "episode", name: str | None = None
) -> Callable[[Callable[..., Any]], Reward]: ...
def reward(
    function: Callable[..., Any] | None = None,
    /,
    *,
    weight: float = 1.0,
    per: Literal["episode", "turn"] = "episode",
    name: str | None = None,
) -> Any:
    """Make a reward component of a function or of a method of an environment.

    Args:
        weight: its factor in the sum that is trained on; 0 logs it only.
        per: ``episode``: called once with the finished episode. ``turn``: called with the episode
            and each turn; the value lands on that turn's last token.
        name: by default the function's name.
    """
    if per not in ("episode", "turn"):
        raise DefinitionError(f"A reward is per 'episode' or per 'turn', not {per!r}.")

    def make(inner: Callable[..., Any]) -> Reward:
        return Reward(inner, name or inner.__name__, weight, per)

    return make if function is None else make(function)


async def score_episode(episode: Trajectory, components: list[Reward]) -> None:
    """Fill in an episode's rewards: components by name, per turn, and the weighted sum.

    Raises:
        UserCodeError: a component failed.
    """
    total = 0.0
    for component in components:
        if component.per == "turn":
            for turn in episode.turns:
                value = await component.score(episode, turn)
                turn.rewards[component.name] = value
                weighted = component.weight * value
                episode.turn_reward[turn.index] = episode.turn_reward.get(turn.index, 0.0) + weighted
        else:
            value = await component.score(episode)
            episode.rewards[component.name] = value
            total += component.weight * value
    episode.episode_reward = total
    episode.reward = total + sum(episode.turn_reward.values())

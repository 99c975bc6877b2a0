"""Rewards for coming closer, of each turn, which leave the best policy as it is (Ng et al. 1999)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from agentrl.algorithms.potential import shaping
from agentrl.errors import ConfigError
from agentrl.registry import REWARDS, find
from agentrl.reward import Reward
from agentrl.terms import Term
from agentrl.train.shaping_part import Scope, Shaping
from agentrl.trajectory import Trajectory, Turn

Phi = Callable[[Trajectory, int], float]
"""How good the state after so many turns is; 0 of them is the state that the task begins in."""


class Potential(Shaping):
    """The environment's rewards, and ``weight (gamma Phi(s') - Phi(s))`` on each turn's last token.

    Where the end counts 0, the discounted sum over an episode is ``-Phi(s_0)``, the same for all episodes of
    a task: nothing is gained but earlier credit, so it takes advantages of turns or tokens to matter.
    """

    function: str = Field(
        description="package.module:name or file.py:name of a function (episode, turns) -> float: how good "
        "the state after the first so many turns is"
    )
    weight: float = 1.0
    gamma: float = Field(1.0, ge=0, le=1, description="discount per turn; that of the advantage")
    end: Literal["zero", "state"] = Field(
        "zero",
        description="what an episode's last state counts: 0, which leaves the best policy as it is, "
        "or its own potential, which pays for getting anywhere",
    )

    def model_post_init(self, _context: Any) -> None:
        """Find the function now, so that a wrong name is told before anything starts."""
        self._phi  # noqa: B018

    @cached_property
    def _phi(self) -> Phi:
        found: Any = find(self.function, REWARDS, Reward)
        if isinstance(found, Reward) or not callable(found) or len(inspect.signature(found).parameters) != 2:
            raise ConfigError(
                f"algorithm.shaping.options.function={self.function} is {_described(found)}; a potential is "
                "a function (episode, turns) -> float."
            )
        phi: Phi = found
        return phi

    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """The environment's, and the shaping."""
        return [*own, self.weight * Reward(self._gain, "potential", per="turn")]

    def _gain(self, episode: Trajectory, turn: Turn) -> float:
        before, after = self._at(episode, turn.index), self._at(episode, turn.index + 1)
        return float(shaping([before, after], discount=self.gamma)[0])

    def _at(self, episode: Trajectory, turns: int) -> float:
        if turns == len(episode.turns) and self.end == "zero":
            return 0.0
        return self._phi(episode, turns)


def _described(found: Any) -> str:
    if isinstance(found, Reward):
        return "a reward"
    return f"{found}" if not callable(found) else f"{found.__name__}{inspect.signature(found)}"

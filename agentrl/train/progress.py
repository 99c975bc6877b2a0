"""What each turn contributed to an episode's outcome, in the outcome's place (SPA-RL)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from agentrl.algorithms.progress import loo_outcome
from agentrl.errors import ConfigError
from agentrl.registry import REWARDS, find
from agentrl.reward import Reward
from agentrl.terms import Amount, Term
from agentrl.train.shaping_part import Scope, Shaping
from agentrl.trajectory import Trajectory, Turn


class Progress(Shaping):
    """``alpha c_t + beta g_t`` on each turn's last token, with ``g_t`` = 1 where no call of it failed.

    Contributions ``c_t`` are a trained estimator's, which the trainer adds to the rows
    (:class:`agentrl.train.attribution.Attribution`), or those of a reward per turn of one's own. Mode
    ``loo_outcome`` pays every turn the outcome less the mean of the group's others instead.

    Source: arXiv:2505.20732.
    """

    alpha: float = Field(1.0, description="factor of contributions")
    beta: float = Field(0.5, description="for a turn whose calls all worked")
    mode: Literal["paper", "loo_outcome"] = Field(
        "paper", description="loo_outcome: the release's for WebShop"
    )
    estimator: str | None = Field(
        None,
        description="package.module:name or file.py:name of a reward per turn, or of a function "
        "(episode, turn) -> float, whose values are the contributions; default: one trained with the policy",
    )
    window: int = Field(256, ge=1, description="episodes, the newest ones, that the estimator is fitted to")
    epochs: int = Field(20, ge=0, description="passes over them after each batch of new ones")
    rate: float = Field(1e-2, gt=0, description="Adam's learning rate in them")
    buckets: int = Field(64, ge=1, description="into which tokens are counted, by their id")
    hidden: int = Field(32, ge=1, description="units of the estimator's hidden layer")

    @property
    def learns(self) -> bool:
        """Whether the trainer has an estimator to train."""
        return self.mode == "paper" and self.estimator is None

    @cached_property
    def _named(self) -> Reward | None:
        """The contributions of one's own."""
        if self.estimator is None:
            return None
        found: Any = find(self.estimator, REWARDS, Reward)
        if isinstance(found, Reward):
            if found.per != "turn":
                raise ConfigError(
                    f"algorithm.shaping.options.estimator={self.estimator} is a reward per {found.per}; "
                    "contributions are per turn."
                )
            return Reward(found.function, found.name, per="turn", no_verdict=found.no_verdict)
        if not callable(found):
            raise ConfigError(
                f"algorithm.shaping.options.estimator={self.estimator} is {type(found).__name__}, neither a "
                "reward per turn nor a function."
            )
        return Reward(found, "contribution", per="turn")

    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """What is known where episodes are played: all, but for the contributions of a trained estimator."""
        if self.mode == "loo_outcome":
            return [EveryTurn(Reward(_above_others, "above_others", per="group"))]
        executed = self.beta * Reward(_executed, "executed", per="turn")
        return [executed] if self._named is None else [self.alpha * self._named, executed]


class EveryTurn(Term):
    """An episode's number, on each of its turns."""

    place = "turn"

    def __init__(self, inner: Term) -> None:
        self._inner = inner

    def parts(self) -> tuple[Term, ...]:
        """The number."""
        return (self._inner,)

    def bind(self, owner: object) -> Term:
        """The same of its number, bound."""
        return EveryTurn(self._inner.bind(owner))

    def amount(self, episode: Trajectory) -> Amount | None:
        """The whole number, once per turn."""
        found = self._inner.amount(episode)
        return None if found is None else Amount(turns={turn.index: found.total() for turn in episode.turns})

    def __str__(self) -> str:
        return f"{self._inner} on every turn"


def _executed(_episode: Trajectory, turn: Turn) -> float:
    """1, but where a call was not carried out."""
    return float(not any(call.status != "ok" or call.observation.error for call in turn.calls))


def _above_others(episodes: Sequence[Trajectory]) -> list[float]:
    """Outcomes less the mean of the others'; 0 for an episode that is alone."""
    outcomes = [episode.unshaped or 0.0 for episode in episodes]
    return [0.0] if len(outcomes) == 1 else [float(value) for value in loo_outcome(outcomes)]

"""What every shaping of rewards is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from agentrl.algorithms.spec import Part
from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.registry import nearest
from agentrl.scoring import components_of
from agentrl.terms import Term
from agentrl.trajectory import Trajectory

Play = Callable[[Trajectory, Trajectory, int, str], Awaitable[Trajectory | None]]
"""``(root, failed, number, words)``: an episode that reflects on the failed one; ``None``: there is none."""


@dataclass(frozen=True)
class Scope:
    """What a shaping may know of the run.

    Args:
        env: the environment.
        steps: of the training.
        play: plays further episodes for a judgement; ``None`` where nothing is played.
        seconds: that judging a group may take; ``None``: any time.
    """

    env: Env
    steps: int
    play: Play | None = None
    seconds: float | None = None


class Shaping(Part):
    """Makes the terms that are trained on."""

    @abstractmethod
    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """What is trained on, made of the environment's own terms.

        Raises:
            ConfigError: the environment's rewards do not fit.
        """

    def group_seconds(self, limits: Rollout) -> float:
        """How long judging a whole group may take, in seconds."""
        return limits.episode_seconds


def check_known(names: Sequence[str], own: Sequence[Term], env: Env) -> None:
    """Refuse names that no component of an environment has.

    Raises:
        ConfigError: one is unknown.
    """
    known = [component.name for component in components_of(own)]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"algorithm.shaping.options: environment {env.name} has no reward {name!r}. "
                f"{nearest(name, known)}"
            )

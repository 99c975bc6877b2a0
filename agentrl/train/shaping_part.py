"""What every shaping of rewards is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.algorithms.spec import Part
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.registry import nearest
from agentrl.scoring import components_of
from agentrl.terms import Term


@dataclass(frozen=True)
class Scope:
    """What a shaping may know of the run.

    Args:
        env: the environment.
        steps: of the training.
    """

    env: Env
    steps: int


class Shaping(Part):
    """Makes the terms that are trained on."""

    @abstractmethod
    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """What is trained on, made of the environment's own terms.

        Raises:
            ConfigError: the environment's rewards do not fit.
        """


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

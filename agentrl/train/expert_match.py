"""Rewards for doing what an expert did, turn by turn (UI-S1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from agentrl.algorithms.expert_replay import step_reward, step_reward_of_code
from agentrl.errors import DefinitionError
from agentrl.reward import Reward
from agentrl.terms import Term
from agentrl.train.shaping_part import Scope, Shaping
from agentrl.trajectory import Trajectory, Turn


class ExpertMatch(Shaping):
    """``.1 form + .4 kind + .5 exact`` for each turn of an episode along an expert's trace.

    Source: UI-S1, arXiv:2509.11543, Eq. 8; the release's ``.1 form + .9 s``.
    """

    form: Literal["paper", "code"] = "paper"

    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """The turns' rewards, in the place of the environment's sum."""
        return [Reward(self._reward, "expert_match", per="turn")]

    def _reward(self, _episode: Trajectory, turn: Turn) -> float:
        how = turn.guided
        if how is None:
            raise DefinitionError(
                "algorithm.shaping.name=expert_match compares turns with an expert's, and this episode "
                "follows none: it needs algorithm.rollout.name=semi_online."
            )
        if self.form == "code":
            return step_reward_of_code(how.form, how.form, how.kind, how.exact)
        return step_reward(how.form, how.kind, how.exact)

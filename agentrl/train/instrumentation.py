"""Partial credit from what an episode's programs printed (RL for machine-learning engineering agents)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from agentrl.algorithms.partial_credit import FAILURE, HIT, credit, hits
from agentrl.errors import DefinitionError
from agentrl.reward import Reward
from agentrl.terms import Term
from agentrl.train.instrument import MARKS
from agentrl.train.shaping_part import Scope, Shaping, check_known
from agentrl.trajectory import Trajectory

PRINTS = tuple(
    f"(?i){words}"
    for words in (
        "imported packages",
        "loaded data",
        "defined model",
        "training loss",
        "trained model",
        "evaluated",
        "wrote submission",
    )
)
"""Seven, as many as the paper's copy of the model may print. Which words it prints is inferred."""


class Instrumentation(Shaping):
    """The grader's score of a valid submission, or else ``crash + per_hit`` times the marks printed.

    Source: arXiv:2509.01684.
    """

    marks: list[str] = Field(list(PRINTS), description="regular expressions; each counts once per episode")
    per_hit: float = Field(HIT, description="for each mark, without a valid submission")
    crash: float = Field(FAILURE, description="without a valid submission")
    tools: list[str] | None = Field(
        None, min_length=1, description="whose output is searched; default: that of all"
    )
    score: str | None = Field(None, description="the grader's component; default: the environment's sum")
    valid: str | None = Field(
        None,
        description="a component that is above 0 where there is a valid submission; default: the episode "
        "came to its own end and has a score",
    )
    inserted: bool = Field(
        False,
        description="only what algorithm.rollout.name=instrument had printed counts; always so where it runs",
    )
    better: Literal["higher", "lower"] = Field("higher", description="lower turns the score's sign")

    @field_validator("marks")
    @classmethod
    def _are_expressions(cls, marks: list[str]) -> list[str]:
        try:
            hits("", marks)
        except DefinitionError as problem:
            raise ValueError(str(problem)) from problem
        return marks

    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """The credit in the place of the environment's sum, and the marks, which are logged alone."""
        check_known([name for name in (self.score, self.valid) if name is not None], own, scope.env)
        return [Reward(self._credit, "instrumentation"), Reward(self._hits, "marks", weight=0)]

    def _credit(self, episode: Trajectory) -> float:
        return credit(
            self._hits(episode),
            self._score(episode),
            lower_is_better=self.better == "lower",
            hit=self.per_hit,
            failure=self.crash,
        )

    def _hits(self, episode: Trajectory) -> int:
        calls = (call for call in episode.calls if self.tools is None or call.name in self.tools)
        seen = [call.observation for call in calls]
        printed = [one.metadata.get(MARKS, "") if self.inserted else one.text for one in seen]
        return hits("\n".join(printed), self.marks)

    def _score(self, episode: Trajectory) -> float | None:
        """The grader's, if there is a valid submission."""
        found = episode.components
        if self.valid is None:
            valid = episode.status == "finished"
        else:
            valid = found.get(self.valid, 0.0) > 0
        score = episode.unshaped if self.score is None else found.get(self.score)
        return score if valid else None

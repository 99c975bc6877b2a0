"""Rewards of a judge that nobody waits for, for what an episode came to see (ONI)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pydantic import Field

from agentrl.algorithms.intrinsic import Intrinsic
from agentrl.errors import NoVerdict
from agentrl.reward import Reward
from agentrl.rewards.endpoint import endpoint_of
from agentrl.rewards.judge import Judge
from agentrl.terms import Term
from agentrl.train.shaping_part import Scope, Shaping
from agentrl.trajectory import Trajectory, Turn

WORDS = (
    "An agent works on a task. Grade what it was just shown, whatever led to it: high if seeing it brings an "
    "agent closer to the end of the task, or tells it something that it needs; low if it is an error, a "
    "repetition, or of no use.\n\nTask:\n{task}\n\nShown:\n{observation}"
)


class Oni(Shaping):
    """The environment's rewards, and ``weight`` times a judge's grade of what each turn came to see.

    An observation is graded once, beside the rollout, by each rollout process. Until there is a grade it
    is worth 0.

    Source: ONI, arXiv:2410.23022.
    """

    weight: float = Field(0.1, description="of a grade from 0 to 1")
    endpoint: dict[str, Any] = Field(
        description="of the judge, as agentrl.rewards.endpoint.Endpoint takes it"
    )
    words: str = Field(WORDS, description="what the judge reads; {task} and {observation} are filled in")
    patience: float = Field(0.0, ge=0, description="seconds that a turn's score waits for its grade")
    queue: int = Field(1024, ge=1, description="observations that may wait for their grade")
    cache: int = Field(100_000, ge=1, description="grades kept, the least recently used thrown away first")
    workers: int = Field(4, ge=1, description="questions at once")

    @cached_property
    def _judge(self) -> Judge:
        endpoint = endpoint_of(self.endpoint, "shaping")
        return Judge("curiosity", self.words, endpoint, per="turn", cache=0)

    @cached_property
    def _labels(self) -> Intrinsic:
        async def grade(text: str) -> float:
            messages: list[dict[str, str]] = json.loads(text)
            verdict: float = await self._judge.grade(messages)
            return verdict

        return Intrinsic(grade, queue=self.queue, cache=self.cache, workers=self.workers)

    def model_post_init(self, _context: Any) -> None:
        """Make the judge now, so that what does not fit is told before anything starts."""
        self._judge  # noqa: B018

    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """The environment's, and the grades; a turn that has none yet is left out."""
        graded = Reward(self._grade, "curiosity", self.weight, "turn", no_verdict="leave out")
        return [*own, graded]

    async def _grade(self, episode: Trajectory, turn: Turn) -> float:
        if turn.index == 0:  # all of them are asked for at once
            for text in filter(None, (self._asked(episode, each) for each in episode.turns)):
                self._labels.label(text)
        asked = self._asked(episode, turn)
        if asked is None:
            return 0.0
        found = await self._labels.label_within(asked, self.patience)
        if found is None:
            raise NoVerdict("what a turn was shown had no grade yet")
        return found

    def _asked(self, episode: Trajectory, turn: Turn) -> str | None:
        """What the judge is sent of a turn; ``None`` where it was shown nothing."""
        return json.dumps(self._judge.messages(episode, turn)) if episode.shown_after(turn) else None

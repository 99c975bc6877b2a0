"""A turn as the engine sampled it, on its way into the record."""

from __future__ import annotations

from dataclasses import dataclass, replace

from agentrl.rollout.policy import Generation, StopReason
from agentrl.trajectory import Segment


@dataclass(frozen=True)
class SampledTurn:
    """A turn as it was sampled: in one piece, or in two with tokens between them that nobody sampled.

    Args:
        first: what was sampled at first.
        inserted: what was put in when that was cut off.
        finish: what was sampled behind it.
    """

    first: Generation
    inserted: tuple[int, ...] = ()
    finish: Generation | None = None

    @property
    def token_ids(self) -> list[int]:
        """All its tokens, in order."""
        finish = self.finish.token_ids if self.finish else []
        return [*self.first.token_ids, *self.inserted, *finish]

    @property
    def stop_reason(self) -> StopReason:
        """Why the turn ended."""
        return (self.finish or self.first).stop_reason

    def finished(self, inserted: list[int], finish: SampledTurn) -> SampledTurn:
        """The turn with what came after it was cut off; the same, where nothing came."""
        if not finish.first.token_ids:
            return self
        return replace(self, inserted=tuple(inserted), finish=finish.first)

    def into(self, segment: Segment) -> tuple[int, int, tuple[int, int] | None]:
        """Append it to a segment; returns its start, its end, and the span that was not sampled."""
        first, finish = self.first, self.finish
        start, end = segment.add_sampled(first.token_ids, first.logprobs, first.versions)
        if finish is None:
            return start, end, None
        segment.add_context(list(self.inserted))
        begin, last = segment.add_sampled(finish.token_ids, finish.logprobs, finish.versions)
        return start, last, (end, begin)

"""WebAgent-R1's context compression: stubs for old observations, and for every action its true context.

A trajectory becomes several samples, one per action, each with the context that the model acted in. Nothing
that was sampled is tokenised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.errors import DefinitionError


@dataclass(frozen=True)
class Exchange:
    """One observation's tokens, and the tokens of the action that answered it, as sampled."""

    observation: Sequence[int]
    action: Sequence[int]


@dataclass(frozen=True)
class Sample:
    """One row for training: ``ids`` and ``mask`` of equal length, 1 on the tokens that are trained."""

    ids: tuple[int, ...]
    mask: tuple[int, ...]


def context(
    head: Sequence[int], past: Sequence[Exchange], observation: Sequence[int], stub: Sequence[int]
) -> list[int]:
    """What the model reads before an action: the head, past actions with stubs for observations, and then the
    current observation in full."""
    ids = list(head)
    for exchange in past:
        ids += [*stub, *exchange.action]
    return [*ids, *observation]


def acting_samples(head: Sequence[int], exchanges: Sequence[Exchange], stub: Sequence[int]) -> list[Sample]:
    """One sample per action with the context it was sampled in; its log-probs are exact there."""
    samples = []
    for turn, exchange in enumerate(exchanges):
        prompt = context(head, exchanges[:turn], exchange.observation, stub)
        mask = [0] * len(prompt) + [1] * len(exchange.action)
        samples.append(Sample((*prompt, *exchange.action), tuple(mask)))
    return samples


def compressed_sample(head: Sequence[int], exchanges: Sequence[Exchange], stub: Sequence[int]) -> Sample:
    """The whole trajectory as one sample with stubs only, as WebAgent-R1's release trains it.

    Actions then stand in another context than the one they were sampled in: the engine's log-probs don't fit.

    Raises:
        DefinitionError: there is no action.
    """
    if not exchanges:
        raise DefinitionError("A sample has at least one action.")
    ids, mask = list(head), [0] * len(head)
    for exchange in exchanges:
        ids += [*stub, *exchange.action]
        mask += [0] * len(stub) + [1] * len(exchange.action)
    return Sample(tuple(ids), tuple(mask))

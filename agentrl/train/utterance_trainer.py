"""The part of our trainers that keeps a critic of utterances beside the policy."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from transfer_queue import KVBatchMeta

from agentrl.train.stored import columns, sessions
from agentrl.train.swarm_trainer import SwarmTrainer
from agentrl.train.utterance import Row, Span, Utterance, UtteranceCritic, utterances

FIELDS = ("prompts", "responses", "response_mask", "rm_scores", "turn_ids")


class UtteranceTrainer(SwarmTrainer):
    """Has a critic learn from each step's turns, and asks it for their advantages."""

    @cached_property
    def _turn_critic(self) -> UtteranceCritic | None:
        how = self._plan.utterance
        return None if how is None else UtteranceCritic(how, self._settings.seed)

    def _turn_advantages(
        self, batch: KVBatchMeta, metrics: dict[str, Any]
    ) -> dict[str, np.ndarray[Any, Any]] | None:
        """Of each row's tokens, by its key, the advantage of their turn; ``None`` without such a critic."""
        if self._turn_critic is None:
            return None
        played = sessions(batch)
        keys = [key for session in played for key in session.keys]
        read = dict(zip(keys, columns(batch, keys, FIELDS), strict=True))
        turns: list[Utterance] = []
        owners: list[tuple[str, Span]] = []
        for session in played:
            rows = [Row(*(read[key][name] for name in FIELDS)) for key in session.keys]
            found, spans = utterances(rows, self._turn_critic.how.context)
            turns += found
            owners += [(session.keys[span.row], span) for span in spans]
        metrics["critic/vf_loss"] = self._turn_critic.learn(turns)
        grids = {key: np.zeros(len(row["response_mask"])) for key, row in read.items()}
        for (key, span), value in zip(owners, self._turn_critic.advantages(turns).tolist(), strict=True):
            grids[key][span.places] = value
        return grids

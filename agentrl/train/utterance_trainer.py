"""The part of our trainers that keeps a critic of utterances beside the policy."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transfer_queue import KVBatchMeta

from agentrl.train.stored import columns, sessions
from agentrl.train.swarm_trainer import SwarmTrainer
from agentrl.train.utterance import Row, Span, Utterance, UtteranceCritic, utterances

FILE = "utterance_critic.pt"

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

    def _save_checkpoint(self) -> None:
        """verl names a checkpoint when its last file is written, so ours comes first."""
        if self._turn_critic is not None:
            path = self._turn_critic_file()
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(self._turn_critic.state(), path)
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self._turn_critic is not None and self._turn_critic_file().is_file():
            # Python's random state is plain data beside tensors.
            self._turn_critic.load(torch.load(self._turn_critic_file(), weights_only=False))

    def _turn_critic_file(self) -> Path:
        return Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}" / FILE

"""The part of our trainers that mixes other nodes' groups into a step and shares its own."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from agentrl.events import EventSink, Warned
from agentrl.train.curriculum_trainer import CurriculumTrainer
from agentrl.train.exchange import open_exchange
from agentrl.train.replay import SwarmReplay
from agentrl.train.stored import columns, put_column, read_column, sessions, task_of, without
from agentrl.train.swarm import Swarm, is_external

SHARED_FOLDER = "swarm"
"""In the folder of runs: where runs share that name no other place."""


class SwarmTrainer(CurriculumTrainer):
    """Trains on a mix of groups; a run whose algorithm shares nothing is left alone."""

    _folder: Path
    _events: EventSink

    @cached_property
    def _swarm(self) -> Swarm | None:
        replay = self._plan.replay
        if not isinstance(replay, SwarmReplay):
            return None
        node = replay.node or self._folder.name
        place = replay.share or str(self._folder.parent / SHARED_FOLDER)
        infos = self.train_dataset.dataframe["extra_info"]
        return Swarm(
            replay,
            open_exchange(place, node, os.environ.get("AGENTRL_TOKEN")),
            node=node,
            env=self._settings.env,
            tasks={task_of(info): info["task"] for info in infos},
            turns=self._settings.rollout.max_turns,
            seed=self._settings.seed,
        )

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        prompts = super()._next_train_batch(num_prompts)
        if self._swarm is None:
            return prompts
        self._swarm.receive(self.global_steps)
        self._warn()
        return self._swarm.mix(prompts, self.global_steps, self._settings.algorithm.group_size)

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict[str, Any], **how: Any) -> KVBatchMeta:
        if self._swarm is not None:
            batch = without(batch, self._swarm.dropped(sessions(batch)))
        balanced: KVBatchMeta = super()._balance_batch(batch, metrics, **how)
        return balanced

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's; of episodes that nobody sampled here the old log-probs are the only ones there are."""
        computed: KVBatchMeta = super()._compute_old_log_prob(batch, metrics)
        if self._swarm is not None:
            self._settle(computed, metrics)
        return computed

    def _settle(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> None:
        played = sessions(batch)
        external = [key for session in played if is_external(session) for key in session.keys]
        if not external:
            return
        put_column(batch, "rollout_log_probs", read_column(batch, external, "old_log_probs"))
        own = [key for session in played if not is_external(session) for key in session.keys]
        names = ["response_mask", "rollout_log_probs", "old_log_probs"]
        gaps = [
            np.abs(np.exp(row["rollout_log_probs"]) - np.exp(row["old_log_probs"]))[row["response_mask"] > 0]
            for row in (columns(batch, own, names) if own else [])
        ]
        if gaps:  # verl's own are over all rows, those among them that the engine never saw
            gap = np.concatenate(gaps)
            metrics["training/rollout_probs_diff_mean"] = float(gap.mean())
            metrics["training/rollout_probs_diff_max"] = float(gap.max())

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        updated: KVBatchMeta = super()._update_actor(batch, metrics)
        if self._swarm is not None:
            self._swarm.share(sessions(updated), self.global_steps)
            self._warn()
        return updated

    def _warn(self) -> None:
        if self._swarm is not None and self._swarm.problem is not None:
            self._events.emit(Warned(f"The run goes on by itself: {self._swarm.problem}"))

    def _swarm_metrics(self) -> dict[str, float]:
        """What a person watches of it."""
        return {} if self._swarm is None else self._swarm.take_told()

"""The part of our trainers that draws prompts where an algorithm says which tasks come when.

The installed verl has no sampler hook: ``create_rl_sampler`` shuffles or does not, whatever
``data.sampler`` says. All its modes fetch prompts in one place, so that is where they are drawn here.
"""

from __future__ import annotations

import json
import uuid
from functools import cached_property, partial
from typing import Any

import numpy as np
from transfer_queue import KVBatchMeta
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn

from agentrl.config import TrainConfig
from agentrl.task import Task
from agentrl.train.algorithm import Plan
from agentrl.train.batch import fetch_rows
from agentrl.train.curriculum import Draws, chooses
from agentrl.train.evaluating_trainer import EvaluatingTrainer
from agentrl.train.queue import replaced_groups
from agentrl.train.summary import began_plainly


class CurriculumTrainer(EvaluatingTrainer):
    """Draws prompts as a curriculum says, and learns from episodes which tasks are solved."""

    _settings: TrainConfig
    _plan: Plan

    @cached_property
    def _draws(self) -> Draws | None:
        """What draws the prompts; ``None``: verl does."""
        if not chooses(self._plan.algorithm):
            return None
        tasks = [Task(**json.loads(row["task"])) for row in self.train_dataset.dataframe["extra_info"]]
        settings = self._settings
        return Draws.of(self._plan.algorithm, tasks, steps=settings.steps, seed=settings.seed)

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        if self._plan.algorithm.filters.replaces:
            self.replay_buffer.judge = partial(replaced_groups, algorithm=self._plan.algorithm)
        if self._draws is not None:
            self.replay_buffer.on_replaced = self._learn

    def _fetch_one_gen_batch(self) -> Any:
        if self._draws is None:
            return super()._fetch_one_gen_batch()
        count = self.config.data.get("gen_batch_size", None) or self.config.data.train_batch_size
        drawn = self._draws.draw(count, self.global_steps - 1)
        rows = collate_fn([self.train_dataset[index] for index in drawn])
        rows["uid"] = np.array([str(uuid.uuid4()) for _ in drawn], dtype=object)
        return tu.get_tensordict(rows)

    def _step_once(
        self, metrics: dict[str, Any], timing_raw: dict[str, float], sample_batch_size: int
    ) -> KVBatchMeta:
        batch: KVBatchMeta = super()._step_once(metrics, timing_raw, sample_batch_size)
        self._learn(batch)
        return batch

    def _learn(self, batch: KVBatchMeta) -> None:
        """Take in how the batch's episodes ended; void ones have no rows, replayed ones counted."""
        if self._draws is None:
            return
        rows = (row for row in fetch_rows(batch, tokens=[]) if not row.replayed)
        # How often a task is solved is told by episodes that began where it does.
        episodes = {row.session: row.episode for row in rows if began_plainly(row.episode)}
        self._draws.add((episode["task"], episode["success"]) for episode in episodes.values())

    def _draw_metrics(self) -> dict[str, float]:
        """What a person watches of it."""
        found = {} if self._draws is None else self._draws.metrics()
        return {f"curriculum/{name}": value for name, value in found.items()}

"""The part of our trainers that evaluates the policy on held-out tasks."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils import tensordict_utils as tu

from agentrl.errors import InfrastructureError
from agentrl.evaluate.statistics import wilson_interval
from agentrl.events import EvalFinished, EventSink, StageStarted
from agentrl.train.failure import check_run


class EvaluatingTrainer(PPOTrainer):
    """Plays held-out tasks with the policy as it is, and tells how many it solves."""

    _folder: Path
    _events: EventSink
    _ending: Exception | None

    def _validate(self) -> dict[str, float]:
        """Evaluate on the held-out tasks; void episodes count for nothing."""
        if self._ending is not None:
            return {}
        self._events.emit(StageStarted("evaluating", f"after {self.global_steps} steps"))
        episodes: list[dict[str, Any]] = []
        for rows in self.val_dataloader:
            rows["uid"] = np.array([uuid.uuid4().hex for _ in rows["raw_prompt"]], dtype=object)
            batch = tu.get_tensordict(rows)
            tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
            tu.assign_non_tensor_data(batch, "validate", True)
            tag = {"is_prompt": True, "status": "pending", "global_steps": self.global_steps}
            tq.kv_batch_put(keys=list(rows["uid"]), partition_id="val", tags=[tag] * len(batch))
            self.agent_loop_manager.generate_sequences(batch)
            done, _ = self.replay_buffer.sample(self.global_steps, partition_id="val", batch_size=len(batch))
            if done.keys:
                data = tq.kv_batch_get(keys=done.keys, partition_id="val", select_fields=["extra_fields"])
                last_rows = {key.rpartition("_")[0]: extra["episode"] for key, extra in
                             zip(done.keys, data["extra_fields"], strict=True)}  # fmt: skip
                episodes.extend(last_rows.values())
                tq.kv_clear(keys=done.keys, partition_id="val")
        return self._report_evaluation(episodes)

    def _report_evaluation(self, episodes: list[dict[str, Any]]) -> dict[str, float]:
        if not episodes:
            check_run(self._folder)
            raise InfrastructureError(
                "Every episode of the evaluation was void; the events name the reasons."
            )
        successes = sum(episode["success"] for episode in episodes)
        success, reward = (
            successes / len(episodes),
            float(np.mean([episode["reward"] for episode in episodes])),
        )
        low, high = wilson_interval(successes, len(episodes))
        self._events.emit(
            EvalFinished(self.global_steps, success, low, high, episodes=len(episodes), reward=reward)
        )
        if 0 < self.global_steps < self.total_training_steps:
            self._events.emit(StageStarted("training"))
        return {"eval/success": success, "eval/reward": reward}

"""verl's trainer whose engines never wait for it, with admission, a bound on staleness and token versions."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.checkpoint_engine import CheckpointEngineManager
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_separate_async import HybridEngineMode, PPOTrainerSeparateAsync
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.rollout.llm_server import LLMServerManager

from agentrl.config import TrainConfig
from agentrl.doctor import Row
from agentrl.events import StageStarted, StalenessReported
from agentrl.scoring import grouped
from agentrl.train.batch import STALE_FIELDS, TOKEN_FIELDS, take_engine_logprobs
from agentrl.train.client import VersionedClient
from agentrl.train.runtime import Runtime
from agentrl.train.shaping import shape_of
from agentrl.train.staleness import Examined, StalenessRule, histogram
from agentrl.train.trainer import AgentTrainer
from agentrl.train.workers import ENDED_SESSIONS

_NOW = "now"


class AsyncTrainer(AgentTrainer, PPOTrainerSeparateAsync):
    """Trains on groups as they end, while the engines play further ones.

    The old log-probs of a token, around which PPO clips, are those of the version that sampled it; with
    ``staleness.policy=correct`` they are the current version's, and importance weights make up for the
    difference (AReaL's decoupled objective).
    """

    def __init__(self, composed: Any, runtime: Runtime, folder: Path) -> None:
        super().__init__(composed, runtime, folder)
        self._env = runtime.env
        self.replay_buffer.admit = self._admit

    def prepare(self, config: TrainConfig) -> None:
        """Take the run's settings, and from them what bounds staleness."""
        super().prepare(config)
        self._rule = StalenessRule.of(config)
        self._batch = config.algorithm.tasks_per_step
        self._taken = 0
        self._kept: set[int] = set()
        self._recomputed: set[int] = set()

    @property
    def _version(self) -> int:
        """The policy that this step trains: updates made before it."""
        return self.global_steps - 1

    def _setup(self) -> None:
        """Start training workers and engines at the same time; both mostly import."""
        with ThreadPoolExecutor(1) as threads:
            # verl completes its configuration meanwhile; the engines need nothing of that.
            engines = threads.submit(LLMServerManager.create, config=copy.deepcopy(self.config), start_rank=0)
            PPOTrainer._setup(self)
            self.standalone_server_manager = engines.result()
        self.standalone_checkpoint_manager = CheckpointEngineManager(
            config=omega_conf_to_dataclass(self.config.actor_rollout_ref.rollout.checkpoint_engine),
            actor_wg=self.actor_rollout_wg,
            replicas=self.standalone_server_manager.get_replicas(),
        )
        self.current_mode = HybridEngineMode.TRAINER

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if self._settings.hardware.device == "cpu":
            from agentrl.train.cpu.worker import SnapshotWorker

            self.role_worker_mapping[Role.Actor] = ray.remote(SnapshotWorker)

    def get_llm_client(self) -> VersionedClient:
        """What episodes sample from."""
        client: VersionedClient = self.standalone_server_manager.get_client(client_cls=VersionedClient)
        return client

    def engines(self) -> list[Any]:
        """verl's servers, one for each inference engine."""
        return list(self.standalone_server_manager.server_handles)

    def on_train_begin(self) -> None:
        """Before the first step; in a run that is gone on with, groups from before are under way again."""
        AgentTrainer.on_train_begin(self)
        _forget_trained_rows()
        self._kept.clear()
        self._keep_weights(self._version)

    def _reissue_inflight_prompts(self, partition_id: str = "train") -> int:
        """Go on with groups that were under way at the checkpoint; episodes of them that had ended are kept.

        Where rewards compare a whole group at once, its episodes are played anew, all of them.
        """
        tags = (tq.kv_list(partition_id) or {}).get(partition_id, {})
        own = self._env.own_rewards()
        shape = shape_of(self._plan.shaping, self._env, self._settings.steps)
        left = left_over(tags, whole=grouped(own if shape is None else [*own, *shape(own)]))
        if left.rows:
            tq.kv_clear(keys=left.rows, partition_id=partition_id)
        if left.finished or left.groups:
            kept = sum(map(len, left.groups.values()))
            detail = (
                f"step {self.global_steps}, with {left.finished} groups that wait to be trained and "
                f"{len(left.groups)} under way, of which {kept} episodes are kept"
            )
            self._events.emit(StageStarted("going on", detail))
        if left.groups:
            batch = tq.kv_batch_get(keys=list(left.groups), partition_id=partition_id)
            tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
            tu.assign_non_tensor_stack(batch, ENDED_SESSIONS, list(left.groups.values()))
            self.agent_loop_manager.generate_sequences(batch)
        return len(left.groups)

    def prepare_step(self) -> dict[str, Any]:
        """Admit the groups that may be under way during this step."""
        self._taken = 0
        self._admit()
        return {}

    def _admit(self) -> None:
        room = self._rule.capacity(
            batch=self._batch,
            trained=self._version * self._batch + self._taken,
            version=self._version,
            outstanding=self.replay_buffer.outstanding(),
            last=self.total_training_steps,
        )
        if room:
            self._add_prompts_to_generate(room)

    def _step_once(
        self, metrics: dict[str, Any], timing_raw: dict[str, float], sample_batch_size: int
    ) -> KVBatchMeta:
        self.replay_buffer.after = self._batch - self._taken - sample_batch_size
        batch = super()._step_once(metrics, timing_raw, sample_batch_size)
        self._taken += sample_batch_size
        return batch

    def on_step_end(self) -> None:
        """After an update: the engines break off, get the new weights, and go on."""
        super().on_step_end()
        self._unless_ending(partial(self._keep_weights, self.global_steps))

    def _keep_weights(self, version: int) -> None:
        """Keep what the doctor needs to recompute log-probs of tokens that are stale by then.

        On GPU machines nothing is kept: only tokens of the newest version are recomputed there.
        """
        if self._settings.hardware.device != "cpu":
            return
        examined = self._examination()
        for passed in [kept for kept in self._kept if not examined.needs(kept, now=version)]:
            self.actor_rollout_wg.clear_cpu_model(_key(passed))
            self._kept.remove(passed)
        if examined.needs(version, now=version):
            self.actor_rollout_wg.save_model_to_cpu(_key(version))
            self._kept.add(version)

    def _examination(self) -> Examined:
        return replace(super()._examination(), bound=self._bound())

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        if self._examined():
            batch = self._recompute(batch, metrics)
        elif self._keeps_both():
            batch = PPOTrainerSeparateAsync._compute_old_log_prob(self, batch, metrics)
        if not self._keeps_both():
            batch = take_engine_logprobs(batch)
        return batch if self._corrects() else self._experience.restore_logprobs(batch)

    def _corrects(self) -> bool:
        return self._rule.policy == "correct" or super()._corrects()

    def _keeps_both(self) -> bool:
        """Whether the loss needs the current version's log-probs beside those of the one that sampled."""
        return self._rule.policy == "correct" or self._plan.needs_old_logprobs

    def _recompute(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Recompute log-probs, each token's with the weights of the version that sampled it, where kept.

        The column ``recomputed_log_probs`` has them, and the current version's for other tokens.
        """
        # Remembered until the doctor asks, after the step: weights are forgotten by then.
        self._recomputed = self._kept | {self._version}
        if not self._kept:
            batch = PPOTrainerSeparateAsync._compute_old_log_prob(self, batch, metrics)
            return _put_rows(batch, "recomputed_log_probs", _rows(batch, "old_log_probs"))
        real = [not tag.get("is_padding", False) for tag in batch.tags]
        versions = [row if own else row[:0] for row, own in zip(_rows(batch, "versions"), real, strict=True)]
        seen = {int(version) for row in versions for version in np.unique(row) if version >= 0}
        self.actor_rollout_wg.save_model_to_cpu(_NOW)
        merged: list[np.ndarray[Any, Any]] = []
        for version in [*sorted((seen & self._kept) - {self._version}), self._version]:
            self.actor_rollout_wg.restore_model_from_cpu(_key(version))
            batch = PPOTrainer._compute_old_log_prob(self, batch, metrics)
            found = _rows(batch, "old_log_probs")
            others = merged or found
            merged = [
                np.where(mask, new, old) if own else new
                for own, mask, new, old in zip(
                    real, [row == version for row in versions], found, others, strict=True
                )
            ]
        self.actor_rollout_wg.restore_model_from_cpu(_NOW)
        self.actor_rollout_wg.clear_cpu_model(_NOW)
        return _put_rows(batch, "recomputed_log_probs", merged)

    def _doctor_columns(self) -> list[str]:
        return [*TOKEN_FIELDS, *STALE_FIELDS]

    def _bound(self) -> int | None:
        return None if self._rule.policy == "correct" else self._rule.bound

    def _recomputed_versions(self) -> Collection[int]:
        return self._recomputed

    def _tell_rows(self, rows: list[Row]) -> None:
        """Report the staleness of what was trained, and what was given up."""
        episodes = {row.session: row.episode for row in rows}
        self._events.emit(
            StalenessReported(
                step=self.global_steps,
                bound=self._rule.bound,
                tokens=histogram((episode["versions"] for episode in episodes.values()), self._version),
                dropped=self.replay_buffer.take_dropped(),
                groups=sorted({row.group for row in rows}),
            )
        )


def _key(version: int) -> str:
    """A name that verl, which keeps snapshots by number, has no other use for."""
    return f"version {version}"


def _rows(batch: KVBatchMeta, column: str) -> list[np.ndarray[Any, Any]]:
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=[column])
    return [np.asarray(row) for row in data[column].unbind()]


def _put_rows(batch: KVBatchMeta, column: str, rows: list[np.ndarray[Any, Any]]) -> KVBatchMeta:
    nested = torch.nested.as_nested_tensor([torch.from_numpy(row) for row in rows], layout=torch.jagged)
    fields = TensorDict({column: nested}, batch_size=len(rows))
    put: KVBatchMeta = tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
    return put


@dataclass(frozen=True)
class LeftOver:
    """What a checkpoint holds of groups.

    Args:
        finished: how many groups wait to be trained.
        groups: those under way, each with the numbers of its episodes that have ended.
        rows: keys of rows to be cleared, because what they belong to is played anew.
    """

    finished: int
    groups: dict[str, list[int]]
    rows: list[str]


def left_over(tags: Mapping[str, Mapping[str, Any]], *, whole: bool) -> LeftOver:
    """Sort what TransferQueue holds.

    Args:
        tags: of all keys: ``<group>`` and ``<group>_<episode>_<row>``.
        whole: whether groups under way are played anew as a whole.
    """
    groups: dict[str, list[int]] = {}
    finished = 0
    for key, tag in tags.items():
        if tag.get("is_prompt", False):
            if tag["status"] in ("pending", "running"):
                groups[key] = []
            else:
                finished += 1
    rows = []
    for key, tag in tags.items():
        group, _, rest = key.partition("_")
        if group not in groups or not rest:
            continue
        episode = int(rest.partition("_")[0])
        if whole or "min_global_steps" not in tag:  # it was being written
            rows.append(key)
        elif episode not in groups[group]:
            groups[group].append(episode)
    return LeftOver(finished, groups, rows)


def _forget_trained_rows() -> None:
    """Clear rows without a group: they were trained in the step that the checkpoint was made in."""
    tags = (tq.kv_list("train") or {}).get("train", {})
    groups = {key for key, tag in tags.items() if tag.get("is_prompt", False)}
    trained = [key for key in tags if key.split("_")[0] not in groups]
    if trained:
        tq.kv_clear(keys=trained, partition_id="train")

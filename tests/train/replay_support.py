"""Steps through the trainer's own path: episodes' rows in a queue of this process, updates recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo import padding_utils
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from agentrl import Segment, Task, Trajectory, Turn
from agentrl.config import load_config
from agentrl.train import async_trainer, fresh, queue, stored
from agentrl.train import batch as batches
from agentrl.train import trainer as trainers
from agentrl.train.agent_loop import to_outputs
from agentrl.train.algorithm import verl_options
from agentrl.train.trainer import AgentTrainer, SyncTrainer


class FakeQueue:
    """TransferQueue's rows by key, in this process."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, dict[str, Any]] = {}

    def kv_batch_get(
        self, *, keys: Sequence[str], partition_id: str, select_fields: Sequence[str] | None = None
    ) -> TensorDict:
        """The fields asked for, or all; of those asked for what there is, as verl takes them."""
        names = list(self.rows[keys[0]]) if select_fields is None else select_fields
        there = [name for name in names if all(name in self.rows[key] for key in keys)]
        found = list_of_dict_to_tensordict([{name: self.rows[key][name] for name in there} for key in keys])
        for name in there:
            values = [self.rows[key][name] for key in keys]
            if all(isinstance(value, torch.Tensor) and value.dim() for value in values):
                found[name] = torch.nested.as_nested_tensor(values, layout=torch.jagged)
        return found

    def kv_batch_put(
        self, *, keys: Sequence[str], partition_id: str, fields: Any = None, tags: Any = None
    ) -> KVBatchMeta:
        for i, key in enumerate(keys):
            if fields is not None:
                for name in set(fields.keys()):
                    value = fields[name][i]
                    self.rows.setdefault(key, {})[name] = getattr(value, "data", value) if not isinstance(
                        value, torch.Tensor | dict) else value  # fmt: skip
            if tags is not None:
                self.tags.setdefault(key, {}).update(tags[i])
        return KVBatchMeta(partition_id=partition_id, keys=list(keys), tags=[self.tags[key] for key in keys])

    def kv_clear(self, *, keys: Sequence[str], partition_id: str) -> None:
        for key in keys:
            del self.rows[key], self.tags[key]


@dataclass
class Played:
    """An episode: rewards of its turns, one row each where ``split``; log-probs all the same."""

    reward: float
    success: bool | None = None
    tokens: Sequence[int] = (2,)
    calls: int = 0
    version: int = 0
    logprob: float = -1.0
    split: bool = False
    status: str = "finished"
    more: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, task: str, asked: int) -> list[Any]:
        segments, turns = [Segment([1, 2])], []
        for index, tokens in enumerate(self.tokens):
            if self.split and index:
                segments.append(Segment([1, 2, 3]))
            span = segments[-1].add_sampled([9] * tokens, [self.logprob] * tokens, [self.version] * tokens)
            turns.append(Turn(index, len(segments) - 1, *span))
        episode = Trajectory(Task("?", id=task), "e", segments=segments, turns=turns, status="finished")
        episode.reward = episode.episode_reward = self.reward
        success = self.reward > 0 if self.success is None else self.success
        tokens = sum(self.tokens)
        summary = {
            "status": self.status, "reward": self.reward, "rewards": {}, "success": success,
            "calls": self.calls, "call_errors": 0, "turns": len(turns), "tokens": tokens, "asked": asked,
            "versions": {str(self.version): tokens}, "generate_seconds": 0.0, "tool_seconds": 0.0,
            "interrupted": 0, "prompt_tokens": 0, "cached_tokens": 0, "row_tokens": 0, **self.more,
        }  # fmt: skip
        return to_outputs(episode, summary, [], carry=True, mark=True)


@dataclass
class Update:
    """What one call of the workers trained on."""

    keys: list[str]
    rows: dict[str, dict[str, Any]]

    def column(self, name: str) -> dict[str, list[float]]:
        return {key: row[name].tolist() for key, row in self.rows.items() if not key.startswith("pad")}


@dataclass
class Lab:
    """A trainer whose steps are given."""

    trainer: AgentTrainer
    queue: FakeQueue
    updates: list[Update] = field(default_factory=list)
    last: KVBatchMeta | None = None

    def step(self, groups: dict[str, Sequence[Played]]) -> Update:
        """A step of groups by task; returns what the policy's own update was made of."""
        asked = self.trainer._settings.algorithm.group_size
        keys: list[str] = []
        for place, (task, members) in enumerate(groups.items()):
            for number, played in enumerate(members):
                for index, output in enumerate(played.rows(task.partition("#")[0], asked)):
                    keys.append(f"g{self.trainer.global_steps}x{place}_{number}_{index}")
                    self._put(keys[-1], output, task.partition("#")[0], number)
        tags = [self.queue.tags[key] for key in keys]
        batch, metrics = KVBatchMeta(partition_id="train", keys=keys, tags=tags), {}
        made, first = self.trainer, len(self.updates)
        made.replay_buffer.sampled = batch
        made.on_sample_end()
        batch = made._balance_batch(batch, metrics)
        batch = made._compute_old_log_prob(batch, metrics)
        batch = made._compute_advantage(batch, metrics)
        self.last = made._update_actor(batch, metrics)
        made.global_steps += 1
        return self.updates[first]

    def _put(self, key: str, output: Any, task: str, number: int) -> None:
        row = output.as_dict()
        ids = torch.cat([row["prompts"], row["responses"]])
        info = {"task": json.dumps({"id": task}), "split": "train"}
        row |= {"uid": key.split("_")[0], "session_id": number, "extra_info": info, "input_ids": ids,
                "loss_mask": row["response_mask"]}  # fmt: skip
        tag = {"seq_len": len(ids), "min_global_steps": 0, "max_global_steps": 0}
        fields = list_of_dict_to_tensordict([row])
        self.queue.kv_batch_put(keys=[key], partition_id="train", fields=fields, tags=[tag])


def lab(
    monkeypatch: pytest.MonkeyPatch,
    *settings: str,
    tasks: int = 1,
    size: int = 4,
    kind: type[AgentTrainer] = SyncTrainer,
) -> Lab:
    """A trainer on a queue of this process; the workers only record."""
    fake = FakeQueue()
    for module in (queue, stored, fresh, batches, trainers, async_trainer, trainer_base, padding_utils):
        monkeypatch.setattr(module, "tq", fake)
    config = load_config("env", [f"algorithm.tasks_per_step={tasks}", f"algorithm.group_size={size}",
                                 "rollout.max_trajectory_tokens=16", *settings])  # fmt: skip
    made = object.__new__(kind)
    made.prepare(config)
    options = {
        key: value for key, value in verl_options(made._plan, 16).items() if key.startswith("algorithm.")
    }
    made.config = OmegaConf.create(
        {
            "actor_rollout_ref": {"actor": {"ppo_mini_batch_size": tasks}, "rollout": {"n": size}},
            "algorithm": {key.removeprefix("algorithm."): value for key, value in options.items()},
            "trainer": {"critic_warmup": 0, "default_local_dir": "/nowhere"},
        }
    )
    made.global_steps, made.total_training_steps, made._first_step = 1, 1000, -1
    made._ending, made.replay_buffer = None, SimpleNamespace()
    made.checkpoint_manager = SimpleNamespace(sleep_replicas=lambda: None)
    made.curr_step_profile, made._sample_start, made._step_sample_wait_seconds = False, 0.0, 0.0
    made.use_critic, made.tokenizer, made.processor = False, SimpleNamespace(eos_token_id=0), None
    made.actor_rollout_wg = SimpleNamespace(_dispatch_info={"actor": [0]}, set_loss_fn=lambda loss: None)
    found = Lab(made, fake)

    def update(self: Any, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        found.updates.append(Update(list(batch.keys), {key: dict(fake.rows[key]) for key in batch.keys}))
        metrics["actor/pg_loss"] = 0.5
        return batch

    def recompute(self: Any, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """The policy that is trained gives every token a log-prob of -2."""
        for key in batch.keys:
            fake.rows[key]["old_log_probs"] = torch.full_like(fake.rows[key]["rollout_log_probs"], -2.0)
            fake.rows[key]["entropy"] = torch.ones_like(fake.rows[key]["rollout_log_probs"])
        return batch

    monkeypatch.setattr(PPOTrainer, "_update_actor", update)
    monkeypatch.setattr(PPOTrainer, "_compute_old_log_prob", recompute)
    return found


def saved(made: Lab, folder: Path) -> Path:
    """A checkpoint's folder with what the trainer remembers."""
    folder.mkdir(exist_ok=True)
    made.trainer._experience.save(folder)
    return folder


def asked(made: Lab, column: str, *tasks: str) -> list[Any]:
    """What the next groups of some tasks are told in a column."""
    infos = [{"task": json.dumps({"id": task})} for task in tasks]
    prompts = TensorDict({"extra_info": NonTensorStack(*infos)}, batch_size=len(tasks))
    return list(made.trainer._experience.ask(prompts, 2)[column])

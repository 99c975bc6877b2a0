"""What our trainers add to verl's: evaluation, events, checkpoints and the doctor."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from agentrl.algorithms import Algorithm
from agentrl.algorithms.running import RunningPercentile
from agentrl.chat.vision import Vision
from agentrl.config import TrainConfig
from agentrl.doctor import Row, examine_step
from agentrl.errors import InfrastructureError
from agentrl.events import (
    CheckpointSaved,
    DoctorReported,
    StageStarted,
    StepFinished,
    Warned,
)
from agentrl.train.algorithm import plan
from agentrl.train.attribution import Attribution
from agentrl.train.batch import TOKEN_FIELDS, VERSIONS, fetch_rows, take_engine_logprobs
from agentrl.train.certificate import Certificate
from agentrl.train.checkpoints import clear_unsealed, prune, seal
from agentrl.train.curriculum import Draws
from agentrl.train.experience import Experience, Replayed
from agentrl.train.failure import check_run, last_line
from agentrl.train.loss import agent_loss
from agentrl.train.metrics import expected_episodes, step_metrics
from agentrl.train.queue import add_columns, add_replay_columns, has_lone_groups
from agentrl.train.runtime import Runtime
from agentrl.train.staleness import Examined
from agentrl.train.swarm import Swarm
from agentrl.train.utterance import UtteranceCritic
from agentrl.train.utterance_trainer import UtteranceTrainer


class AgentTrainer(UtteranceTrainer):
    """Trains on the rows that the episode loop puts into TransferQueue, in whichever of verl's modes.

    Args:
        composed: verl's configuration.
        runtime: the run's settings, environment and events.
        folder: the run folder.
    """

    def __init__(self, composed: Any, runtime: Runtime, folder: Path) -> None:
        clear_unsealed(Path(composed.trainer.default_local_dir))
        super().__init__(composed)
        # The rollout processes get this configuration, and with it the way to wake this one.
        composed.trainer.v1.sampler.sampler_kwargs.bell = self.replay_buffer.bell.address
        self._folder, self._events = folder, runtime.events
        self.prepare(runtime.config)
        self._certificate = Certificate(folder)
        self._first_step: int | None = None
        self._unsaved: str | None = None
        self._finished = 0
        self._ending: Exception | None = None
        self._half = False
        """Whether a step has begun to change what a checkpoint holds."""
        self.global_steps: int = 0

    def prepare(self, config: TrainConfig) -> None:
        """Take the run's settings, and from them what carries out its algorithm."""
        self._settings = config
        self._plan = plan(config.algorithm)
        self._median = _median(self._plan.algorithm)
        self._loss_of: Algorithm | None = None
        self._experience = Experience(self._plan, config)
        how, carry = self._plan.progress, self._plan.carries_rewards
        self._attribution = None if how is None else Attribution(how, seed=config.seed, carry=carry)
        self._trained: list[Row] = []
        self._again: list[Row] = []

    def fit(self, agent_loop_manager: Any) -> None:
        """Train; keeps a checkpoint of the last finished step when the run is stopped.

        Raises:
            InfrastructureError: the last checkpoint could not be written.
            RunStopped: the run was told to stop.
        """
        try:
            super().fit(agent_loop_manager)
        except Exception:
            self._rescue()
            raise
        finally:
            self.replay_buffer.bell.close()
        if self._unsaved is not None:  # told only now, so that the last step is measured and recorded
            raise InfrastructureError(self._unsaved)

    def engines(self) -> list[Any]:
        """verl's servers, one for each inference engine."""
        return list(self.llm_server_manager.server_handles)

    @cached_property
    def _vision(self) -> Vision | None:
        """The image rules of a model that is shown images."""
        if self.processor is None:
            return None
        return Vision.of(self.tokenizer, self.processor.image_processor)

    def on_train_begin(self) -> None:
        """Before the first step."""
        self._events.emit(StageStarted("training"))

    def on_step_end(self) -> None:
        """After an update: give the engine the new weights. A run that must stop first tells the step."""
        self._finished, self._half = self.global_steps, False
        self._unless_ending(self._pass_weights_on)

    def _pass_weights_on(self) -> None:
        check_run(self._folder)
        super().on_step_end()

    def _unless_ending(self, action: Callable[[], None]) -> None:
        """Do what belongs to a step's end; where it fails, the run ends once the step has been told."""
        try:
            if self._ending is None:
                action()
        except Exception as problem:
            self._ending = problem

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> KVBatchMeta:
        """Train a step, and tell of what: a run lost after the step's checkpoint never would."""
        batch: KVBatchMeta = super().step(metrics, timing_raw)
        tokens = self._doctor_columns() if self._examined() else []
        rows = fetch_rows(batch, tokens=tokens, images=self._vision is not None)
        self._trained = rows if self._attribution is None else self._attribution.told(rows)
        self._tell_rows([row for row in rows if not row.replayed])
        return batch

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        """The next tasks, with what their history says of them."""
        return self._experience.ask(super()._next_train_batch(num_prompts), self.global_steps)

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict[str, Any], **how: Any) -> KVBatchMeta:
        """Let stored episodes enter the step, before it is padded and spread over the ranks."""
        entered = self._experience.enter(batch, self.global_steps)
        balanced: KVBatchMeta = super()._balance_batch(entered, metrics, **how)
        return balanced

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Log-probs under the policy that sampled.

        Those of stored episodes are the stored ones, unless the algorithm corrects for the difference.
        On a CPU engine and trainer both compute in float32 and agree to about 1e-6, so the engine's are
        used, which saves a forward pass; on the steps that the doctor examines they are recomputed.
        """
        if self._settings.hardware.device != "cpu" or self._examined() or self._plan.needs_old_logprobs:
            batch = super()._compute_old_log_prob(batch, metrics)
        else:
            batch = take_engine_logprobs(batch)
        return batch if self._corrects() else self._experience.restore_logprobs(batch)

    def _corrects(self) -> bool:
        """Whether importance weights make up for who sampled a token."""
        return self._plan.algorithm.correction.kind != "none"

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Advantages by verl's estimator where it has the algorithm's, else by ours."""
        self._half = True
        if self._attribution is not None:
            self._attribution.add(batch)
        if self._plan.estimator is not None and not self._lonely(batch):
            computed: KVBatchMeta = super()._compute_advantage(batch, metrics)
            return computed
        return add_columns(
            batch,
            self._plan,
            horizon=self._settings.rollout.max_trajectory_tokens,
            update_rows=self._update_rows(),
            median=self._median,
            left_out=self._experience.left_out,
            turn_advantages=self._turn_advantages(batch, metrics),
        )

    def _lonely(self, batch: KVBatchMeta) -> bool:
        """Whether verl would take a reward for an advantage, because there is nothing to compare it with."""
        return self._plan.estimator == "grpo" and has_lone_groups(batch)

    def _update_rows(self) -> int:
        """Rows of one optimizer update."""
        actor, engine = self.config.actor_rollout_ref.actor, self.config.actor_rollout_ref.rollout
        return int(actor.ppo_mini_batch_size * engine.n)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Update the policy, with our loss where verl has none like it; its coefficients are the step's."""
        if self._plan.loss is None:
            algorithm = self._plan.algorithm.at(self.global_steps - 1)
            if algorithm != self._loss_of:
                self.actor_rollout_wg.set_loss_fn(partial(agent_loss, algorithm=algorithm))
                self._loss_of = algorithm
        updated: KVBatchMeta = super()._update_actor(batch, metrics)
        again = self._experience.again(updated, self.global_steps)
        if again is not None:
            self._update_again(again, metrics)
        self._experience.keep(updated, self.global_steps)
        return updated

    def _update_again(self, again: Replayed, metrics: dict[str, Any]) -> None:
        """Train on episodes of earlier steps, in updates of their own after the step's."""
        batch = super()._balance_batch(again.batch, {})
        horizon = self._settings.rollout.max_trajectory_tokens
        batch = add_replay_columns(batch, self._plan, again, horizon=horizon, update_rows=self._update_rows())
        if self._plan.has_reference:
            batch = self._compute_ref_log_prob(batch, {})
        told: dict[str, Any] = {}
        super()._update_actor(batch, told)
        metrics["replay/loss"] = told["actor/pg_loss"]
        if self._examined():
            self._again += fetch_rows(batch, tokens=[*TOKEN_FIELDS, VERSIONS])
        tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)

    def _examined(self) -> bool:
        """Whether the doctor examines this step."""
        return self.global_steps in self._examination().steps

    def _examination(self) -> Examined:
        if self._first_step is None:
            self._first_step = self.global_steps
        return Examined(self._first_step, self.total_training_steps)

    def _compute_metrics(
        self,
        batch: KVBatchMeta,
        metrics: dict[str, Any],
        timing_raw: dict[str, float],
        global_steps: int,
        epoch: int,
    ) -> None:
        with ExitStack() as afterwards:  # also where verl's part fails, because the queue was lost
            afterwards.callback(self._end)
            afterwards.callback(self._tell_step, metrics, timing_raw)
            super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)

    def _end(self) -> None:
        if self._ending is not None:
            raise self._ending

    def _tell_step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> None:
        if self._examined():
            self._examine([*self._trained, *self._again])
            self._again = []
        rows = self._episode_rows or [row for row in self._trained if not row.replayed]
        told, replaced = self._experience.take_told()
        told |= self._swarm_metrics()
        elsewhere = int(told.get("swarm/taken", 0))
        expected = expected_episodes(rows, self._settings.algorithm, elsewhere=elsewhere)
        found = step_metrics(rows, metrics, timing_raw, expected=expected, replaced=replaced)
        told |= self._draw_metrics()
        if self._attribution is not None:
            told |= self._attribution.take_told()
        self._events.emit(StepFinished(self.global_steps, self.total_training_steps, found | told))

    def _doctor_columns(self) -> list[str]:
        """The token columns that the doctor looks at."""
        return TOKEN_FIELDS if self._plan.replay is None else [*TOKEN_FIELDS, VERSIONS]

    def _recomputed_versions(self) -> Collection[int] | None:
        """Versions whose log-probs were recomputed with their own weights; ``None``: there is but one."""
        return None

    def _bound(self) -> int | None:
        """Updates by which a trained token may be behind, where versions differ and a bound holds."""
        return None

    def _examine(self, rows: list[Row]) -> None:
        report = examine_step(
            rows,
            step=self.global_steps,
            algorithm=self._settings.algorithm,
            vision=self._vision,
            bound=self._bound(),
            recomputed=self._recomputed_versions(),
        )
        self._certificate.add(report)
        checks = {check.name: "pass" if check.passed else check.detail for check in report.checks}
        self._events.emit(DoctorReported(self.global_steps, report.passed, checks))

    def _tell_rows(self, rows: list[Row]) -> None:
        """Say what else there is to say of a step's rows."""

    def _save_checkpoint(self) -> None:
        """Save; one that cannot be written is removed and the run goes on."""
        path = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            for memory in self._memories():  # first: verl's part, written last, makes a checkpoint count
                memory.save(path)
            super()._save_checkpoint()
            seal(path.parent, self.global_steps)
        except Exception as problem:
            shutil.rmtree(path, ignore_errors=True)
            message = (
                f"The checkpoint of step {self.global_steps} could not be written to {path} "
                f"({last_line(problem)}). "
                "Earlier checkpoints are kept. Make room, or name another folder with runs=."
            )
            self._unsaved = message
            self._events.emit(Warned(message))
            return
        self._unsaved = None
        prune(path.parent, self._settings.checkpoint.keep)
        self._events.emit(CheckpointSaved(self.global_steps, str(path)))

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        path = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        for memory in self._memories():
            memory.load(path)

    def _memories(self) -> list[Experience | Attribution | Draws | Swarm | UtteranceCritic]:
        """What goes into checkpoints beside verl's."""
        kept = (self._experience, self._attribution, self._draws, self._swarm, self._turn_critic)
        return [memory for memory in kept if memory is not None]

    def _rescue(self) -> None:
        """Keep the weights of the last finished step, if they are still there and the workers can."""
        self.global_steps = finished = self._finished
        folder = Path(self.config.trainer.default_local_dir)
        if finished < 1 or (folder / f"global_step_{finished}").exists():
            return
        if self._half:
            message = (
                f"No checkpoint of step {finished} could be kept: a part of the next step was trained "
                "already. The run can go on from an earlier checkpoint."
            )
            self._events.emit(Warned(message))
            return
        self._attempt(self._save_checkpoint, "No checkpoint could be kept")

    def _attempt(self, action: Callable[[], None], message: str) -> None:
        try:
            action()
        except Exception as problem:  # the reason the run stopped matters more than this one
            self._events.emit(Warned(f"{message}: {last_line(problem)}"))


class SyncTrainer(AgentTrainer, PPOTrainerSync):
    """Samples, then trains, then samples again, on the same machines."""


def _median(algorithm: Algorithm) -> RunningPercentile | None:
    """The running median, if a baseline needs it; a resumed run starts a new one."""
    windows = [how.window for _, how in algorithm.levels() if how.baseline == "median"]
    return RunningPercentile(max(windows)) if windows else None

"""verl's replay buffers, woken when episodes end, and stopped when the run must end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from agentrl.errors import ConfigError, InfrastructureError
from agentrl.train.bell import Bell
from agentrl.train.failure import check_run
from agentrl.train.staleness import Group, StalenessRule

LOOK_SECONDS = 1.0
"""How often a waiting trainer looks at whether the run was told to stop. New rows wake it at once."""

MOST_BATCHES = 32
"""Batches of tasks that a step may play in search of groups whose rewards differ."""

NO_ROWS = "no materializable trajectories"
"""What verl's buffer says of a step without a single row."""

HOPELESS_BATCHES = 3
"""After this many batches of groups in a row without a single row, the run stops."""


class _Woken(ReplayBuffer):
    """Waits for the bell, where verl's own buffer sleeps for 2 s."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        own = settings["sampler_kwargs"]
        self._run = Path(own["run"])
        self.bell = Bell(own["host"])

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        check_run(self._run)
        self.bell.wait(LOOK_SECONDS)
        return last_debug_time


class WatchfulReplayBuffer(_Woken):
    """The buffer of synchronous training.

    Groups that teach nothing are replaced where the algorithm says so (DAPO), up to a limit. verl
    gives its own buffer these settings and a custom one none, so they come with ``sampler_kwargs``:
    ``run``, the run folder, and ``replaced_groups_of``, the tasks of a step, or 0 where no group is replaced.

    Attributes:
        on_replaced: given the rows of groups that are about to be replaced, if somebody wants them.
        judge: says of groups' rows which are to be replaced, and with what mean reward.
        sampled: the rows of the newest batch.
    """

    on_replaced: Callable[[KVBatchMeta], object] | None = None
    judge: Callable[[KVBatchMeta], Mapping[str, float | None]]
    sampled: KVBatchMeta

    def __init__(self, **settings: Any) -> None:
        tasks = int(settings["sampler_kwargs"].get("replaced_groups_of", 0))
        if tasks:
            settings |= {"filter_groups_metric": "reward", "train_batch_size": tasks, "gen_batch_size": 1}
        super().__init__(**settings)
        self._most, self._played = MOST_BATCHES * tasks, 0
        if tasks:
            self._ask_for_more: Callable[[int], object] = settings["refill_fn"]
            self.refill_fn = self._refill

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> Any:
        """verl's, with the count of replaced groups begun anew.

        Raises:
            InfrastructureError: every episode of the step was void.
        """
        self._played = 0
        try:
            found = super().sample(global_steps, partition_id, batch_size)
        except RuntimeError as problem:
            if NO_ROWS not in str(problem):
                raise
            check_run(self._run)
            raise InfrastructureError(
                f"Every episode of step {global_steps} was void, so there is nothing to train on. The events "
                "name the reasons; the engine or the tools' machines are down."
            ) from problem
        self.sampled = found[0]
        return found

    def _refill(self, groups: int) -> None:
        self._played += groups
        if self._played > self._most:
            raise ConfigError(
                f"{self._played} groups were played for one step and hardly any had rewards that differ "
                "enough. Easier or harder tasks are needed; drop instead of resample (algorithm.filters) "
                "trains on what there is."
            )
        self._ask_for_more(groups)

    def _dapo_filtered_keys(self, partition_id: str) -> Any:
        """Groups to be replaced, and how many of them had which mean reward.

        verl's looks at rows, not at episodes, and at nothing but whether rewards are all alike; and it would
        end the run over a group whose episodes were all void, which here has failed.
        """
        if partition_id == "val" or self.filter_groups_metric is None:
            return super()._dapo_filtered_keys(partition_id)
        rows = {key: tag for key, tag in self.partitions[partition_id].items() if "_" in key}
        finished = self.finished_keys[partition_id]
        void = finished - {key.split("_")[0] for key in rows}
        finished -= void
        self.failure_keys[partition_id] |= void
        known = self._dapo_classification_cache[partition_id]
        for gone in known.keys() - finished:
            del known[gone]
        keys = [key for key in rows if key.split("_")[0] in finished - known.keys()]
        if keys:
            batch = KVBatchMeta(partition_id=partition_id, keys=keys, tags=[rows[key] for key in keys])
            known.update(self.judge(batch))
        replaced = {group: reward for group, reward in known.items() if reward is not None}
        return set(replaced), Counter(replaced.values())

    def _evict_terminal_groups(self, global_steps: int, partition_id: str, eviction_reasons: Any) -> Any:
        """verl's, after a last look at the groups that are replaced."""
        replaced, rows = eviction_reasons[1], self.partitions[partition_id]
        keys = [key for key in rows if "_" in key and key.split("_")[0] in replaced]
        if keys and self.on_replaced is not None:
            tags = [rows[key] for key in keys]
            self.on_replaced(KVBatchMeta(partition_id=partition_id, keys=keys, tags=tags))
        return super()._evict_terminal_groups(global_steps, partition_id, eviction_reasons)


class StreamingReplayBuffer(_Woken, ReplayBufferAsync):
    """The buffer of asynchronous training: oldest groups first, none staler than the bound.

    Attributes:
        admit: asked to admit new groups wherever there may be room for some.
        rule: how stale a group may be.
        batch: groups of a step.
        after: groups that the step trains after the batch which is being sampled.
        dropped: groups that were given up since the count was taken, by reason.
    """

    admit: Callable[[], None]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        own = settings["sampler_kwargs"]
        self.rule = StalenessRule(int(own["bound"]), own["policy"])
        self.batch = int(own["batch"])
        self.after = 0
        self.dropped: Counter[str] = Counter()
        self._empty = 0
        self._good: set[str] = set()

    def outstanding(self) -> int:
        """Groups of training that are admitted and not trained."""
        self._sync_metadata_from_transfer_queue()
        return len(self.prompt_global_steps["train"])

    def sample(
        self, global_steps: int, partition_id: str, batch_size: int
    ) -> tuple[KVBatchMeta, dict[str, Any]]:
        """The rows of the next ``batch_size`` groups; waits until there are so many.

        Raises:
            InfrastructureError: every group of several batches was void.
            RunStopped: the run was told to stop.
        """
        rule = self.rule if partition_id == "train" else StalenessRule(global_steps + 1, "correct")
        version = global_steps - 1
        while True:
            self._sync_metadata_from_transfer_queue()
            groups = self._groups(partition_id)
            if partition_id == "train" and self._drop(groups, version):
                self.admit()
                continue
            after = self.after if partition_id == "train" else 0
            chosen = rule.choose(groups, version=version, size=batch_size, after=after, batch=self.batch)
            if chosen is not None:
                names = [group.name for group in chosen]
                rows = dict(self.partitions[partition_id])
                return self._materialize_batch(partition_id, names, rows), {}
            self._wait_for_next_poll(partition_id, 0.0)

    def _groups(self, partition_id: str) -> list[Group]:
        rows: dict[str, list[int]] = defaultdict(list)
        for key, tag in self.partitions[partition_id].items():
            if "min_global_steps" in tag:  # else it is being written, and its group has not ended
                rows[key.split("_")[0]].append(int(tag["min_global_steps"]))
        ended = self.finished_keys[partition_id] | self.failure_keys[partition_id]
        return [
            # Until a group has ended, no more is known than that it began after its admission.
            Group(name, min(rows[name]), True, len(rows[name]))
            if name in ended and name in rows
            else Group(name, step - 1, name in ended)
            for name, step in self.prompt_global_steps[partition_id].items()
        ]

    def _drop(self, groups: list[Group], version: int) -> bool:
        """Give up groups that are too late, whose episodes were all void, or that failed."""
        reasons = {}
        for group in groups:
            if not group.finished:
                continue
            if group.name in self.failure_keys["train"]:
                reasons[group.name] = "failed"
            elif not group.rows:
                reasons[group.name] = "void"
            elif self.rule.too_late(group, version):
                reasons[group.name] = "stale"
        good = {group.name for group in groups if group.finished and group.name not in reasons}
        if good - self._good:  # those that only wait for a whole batch say nothing of how things are now
            self._empty = 0
        self._good = good
        if not reasons:
            return False
        self._empty += sum(reason != "stale" for reason in reasons.values())
        if self._empty >= HOPELESS_BATCHES * self.batch:
            raise InfrastructureError(
                f"{self._empty} groups of episodes in a row were void, so there is nothing to train on. The "
                "events name the reasons; the engine or the tools' machines are down."
            )
        self.dropped.update(reasons.values())
        self._clear_groups("train", set(reasons))
        return True

    def take_dropped(self) -> dict[str, int]:
        """The groups given up since the last call, by reason."""
        taken, self.dropped = dict(self.dropped), Counter()
        return taken

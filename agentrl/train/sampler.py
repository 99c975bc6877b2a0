"""verl's replay buffer, watched: it answers at once and stops waiting when the run must end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from agentrl.errors import ConfigError
from agentrl.train.failure import check_run

POLL_SECONDS = 0.1
MOST_BATCHES = 32
"""Batches of tasks that a step may play in search of groups whose rewards differ."""


class WatchfulReplayBuffer(ReplayBuffer):
    """Polls every 0.1 s, where verl's own waits 2 s, and raises when the run was told to stop.

    Groups whose rewards are all alike are replaced where the algorithm says so (DAPO), up to a limit. verl
    gives its own buffer these settings and a custom one none, so they come with ``sampler_kwargs``:
    ``run``, the run folder, and ``replaced_groups_of``, the tasks of a step, or 0 where no group is replaced.
    """

    def __init__(self, **settings: Any) -> None:
        own = settings["sampler_kwargs"]
        self._run, tasks = Path(own["run"]), int(own.get("replaced_groups_of", 0))
        if tasks:
            settings |= {"filter_groups_metric": "reward", "train_batch_size": tasks, "gen_batch_size": 1}
        super().__init__(poll_interval=POLL_SECONDS, **settings)
        self._most, self._played = MOST_BATCHES * tasks, 0
        if tasks:
            self._ask_for_more: Callable[[int], object] = settings["refill_fn"]
            self.refill_fn = self._refill

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> Any:
        """verl's, with the count of replaced groups begun anew."""
        self._played = 0
        return super().sample(global_steps, partition_id, batch_size)

    def _refill(self, groups: int) -> None:
        self._played += groups
        if self._played > self._most:
            raise ConfigError(
                f"{self._played} groups were played for one step and hardly any had rewards that differ. "
                "Easier or harder tasks are needed; algorithm.filters.zero_variance=drop trains on what "
                "there is."
            )
        self._ask_for_more(groups)

    def _dapo_filtered_keys(self, partition_id: str) -> Any:
        """verl's; it would end the run over a group whose episodes were all void, which here has failed.

        verl looks at rows: where an episode has several, a group may stay that has rewards all alike.
        """
        if self.filter_groups_metric is None:
            return super()._dapo_filtered_keys(partition_id)
        with_rows = {key.split("_")[0] for key in self.partitions[partition_id] if "_" in key}
        void = self.finished_keys[partition_id] - with_rows
        self.finished_keys[partition_id] -= void
        self.failure_keys[partition_id] |= void
        return super()._dapo_filtered_keys(partition_id)

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        check_run(self._run)
        next_debug_time: float = super()._wait_for_next_poll(partition_id, last_debug_time)
        return next_debug_time

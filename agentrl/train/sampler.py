"""verl's replay buffer, watched: it answers at once and stops waiting when the run must end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from agentrl.train.failure import check_run

POLL_SECONDS = 0.1


class WatchfulReplayBuffer(ReplayBuffer):
    """Polls every 0.1 s, where verl's own waits 2 s, and raises when the run was told to stop."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(poll_interval=POLL_SECONDS, **settings)
        self._run = Path(settings["sampler_kwargs"]["run"])

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        check_run(self._run)
        next_debug_time: float = super()._wait_for_next_poll(partition_id, last_debug_time)
        return next_debug_time

"""verl's rollout workers, which tell the trainer when a group of episodes has ended."""

from __future__ import annotations

from typing import Any

import ray
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

from agentrl.train.bell import Ringer

ENDED_SESSIONS = "ended_sessions"
"""Column of a group that is gone on with: numbers of its episodes whose rows are there already."""

# Ray wraps the class that verl decorates; this is the one inside.
_Worker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class.__ray_actor_class__


class EpisodeWorker(_Worker):
    """A process that plays episodes."""

    def __init__(self, config: Any, *rest: Any, **named: Any) -> None:
        super().__init__(config, *rest, **named)
        self._ringer = Ringer(config.trainer.v1.sampler.sampler_kwargs.bell)

        self._ended: dict[str, set[int]] = {}

    async def _run_prompt(self, prompt: dict[str, Any], *what: Any, **how: Any) -> None:
        """Play a group; its rows and its status are in TransferQueue before the trainer is woken."""
        uid = prompt["uid"]
        self._ended[uid] = set(prompt.pop(ENDED_SESSIONS, ()))
        try:
            await super()._run_prompt(prompt, *what, **how)
        finally:
            del self._ended[uid]
            self._ringer.ring()

    async def _run_agent_loop(self, *what: Any, uid: str, session_id: int, **how: Any) -> None:
        """Play an episode, unless it had ended before the run was gone on with."""
        if session_id not in self._ended[uid]:
            await super()._run_agent_loop(*what, uid=uid, session_id=session_id, **how)


class EpisodeManager(AgentLoopManagerTQ):
    """Starts the workers and gives them their groups."""

    def __init__(self, *what: Any, **how: Any) -> None:
        super().__init__(*what, **how)
        self.agent_loop_workers_class = ray.remote(EpisodeWorker)

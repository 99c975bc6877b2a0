"""verl's rollout workers, which tell the trainer when a group of episodes has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import ray
from verl.trainer.ppo.v1 import AgentLoopManagerTQ
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

from agentrl.train.bell import Ringer
from agentrl.train.experience import PLAYED
from agentrl.train.swarm import SAID

ENDED_SESSIONS = "ended_sessions"
"""Column of a group that is gone on with: numbers of its episodes whose rows are there already."""

# Ray wraps the class that verl decorates; this is the one inside.
_Worker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class.__ray_actor_class__


class _Playing:
    """A group under way.

    Args:
        ended: numbers of episodes whose rows are there.
        wanted: episodes with rows that make the group complete; ``None``: all are waited for.
    """

    def __init__(self, ended: Iterable[int], wanted: int | None) -> None:
        self.kept, self.wanted = frozenset(ended), wanted
        self.taken, self.enough = set(self.kept), asyncio.Event()

    def take(self, number: int) -> bool:
        """Whether one more episode's rows are wanted; then they count, and nothing breaks it off any more."""
        if self.enough.is_set():
            return False
        self.taken.add(number)
        if self.wanted is not None and len(self.taken) >= self.wanted:
            self.enough.set()
        return True


class EpisodeWorker(_Worker):
    """A process that plays episodes.

    With ``algorithm.over`` more episodes of a group are begun than it is to have, and those that are still
    under way when it has them are broken off.
    """

    def __init__(self, config: Any, *rest: Any, **named: Any) -> None:
        super().__init__(config, *rest, **named)
        own = config.trainer.v1.sampler.sampler_kwargs
        self._ringer, self._over = Ringer(own.bell), int(own.get("over", 0))
        self._playing: dict[str, _Playing] = {}

    async def alive(self) -> None:
        """A sign of life: nothing that an episode does keeps the others from going on."""

    async def _run_prompt(
        self, prompt: dict[str, Any], sampling: Any, trajectory: Any, *what: Any, **how: Any
    ) -> None:
        """Play a group; its rows and its status are in TransferQueue before the trainer is woken."""
        uid, over = prompt["uid"], self._over
        if trajectory["validate"] or prompt.get(SAID):  # these are as many as there are
            over = 0
        size = int(prompt.get(PLAYED, self.config.actor_rollout_ref.rollout.n))
        if over:
            prompt[PLAYED] = size + over
        self._playing[uid] = _Playing(prompt.pop(ENDED_SESSIONS, ()), size if over else None)
        try:
            await super()._run_prompt(prompt, sampling, trajectory, *what, **how)
        finally:
            del self._playing[uid]
            self._ringer.ring()

    async def _run_agent_loop(self, *what: Any, uid: str, session_id: int, **how: Any) -> None:
        """Play an episode, unless it had ended before the run was gone on with, or its group has enough."""
        group = self._playing[uid]
        if session_id in group.kept:
            return
        episode = asyncio.ensure_future(super()._run_agent_loop(*what, uid=uid, session_id=session_id, **how))
        enough = asyncio.ensure_future(group.enough.wait())
        try:
            await asyncio.wait({episode, enough}, return_when=asyncio.FIRST_COMPLETED)
            if session_id not in group.taken:
                episode.cancel()  # where it has not ended by itself, it cleans up
            await asyncio.wait({episode})
        finally:
            enough.cancel()
            episode.cancel()
        if not episode.cancelled():
            episode.result()

    async def _agent_loop_postprocess(self, output: Any, validate: bool, **row: Any) -> None:
        """Hand rows on, unless the group had enough in the same moment."""
        if output and not self._playing[row["uid"]].take(int(row["session_id"])):
            return
        await super()._agent_loop_postprocess(output, validate, **row)


class EpisodeManager(AgentLoopManagerTQ):
    """Starts the workers and gives them their groups."""

    def __init__(self, *what: Any, **how: Any) -> None:
        super().__init__(*what, **how)
        self.agent_loop_workers_class = ray.remote(EpisodeWorker)
        self._next = 0

    def generate_sequences(self, prompts: Any) -> None:
        """Spread groups over the workers, from the one behind the last: verl would begin with the first.

        A trainer that replaces groups asks for few at a time, which would all go to one worker.
        """
        workers, first = self.agent_loop_workers, self._next
        chunks = prompts.chunk(len(workers))
        self._next = (first + len(chunks)) % len(workers)
        ray.get(
            [
                workers[(first + place) % len(workers)].generate_sequences.remote(chunk)
                for place, chunk in enumerate(chunks)
            ]
        )

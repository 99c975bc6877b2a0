"""Episodes that begin inside another one of their task: what it did first is done again (Snapshot RL)."""

from __future__ import annotations

from agentrl.env import Env
from agentrl.errors import EngineError, UsageError
from agentrl.rollout.attempt import Attempt
from agentrl.rollout.policy import Scene
from agentrl.rollout.scripted import written
from agentrl.rollout.setting import Ended
from agentrl.rollout.toolbox import ToolBox, distinct
from agentrl.trajectory import Message, Trajectory, Turn

STARTED = "started"
"""In a trajectory's metadata: behind how many turns of a stored episode it began."""


class StartedAttempt(Attempt):
    """Plays an episode from where the first turns of a stored one lead, if it is to begin there.

    Those turns are carried out anew, in this episode's own world, and stand in its context as tokens that
    were not sampled: no loss sees them, and they are no turns of the episode.
    """

    async def _set_up(self) -> tuple[Env, ToolBox]:
        env, tools = await super()._set_up()
        said = self._setting.start
        try:
            for message in said:
                await self._do_again(message, env, tools)
        except Ended as ending:
            raise EngineError(
                f"The first {len(said)} turns of a stored episode ended this one: {ending}. Does the "
                "environment answer the same actions alike?"
            ) from ending
        if said:
            self._trajectory.metadata[STARTED] = len(said)
        return env, tools

    async def _do_again(self, message: Message, env: Env, tools: ToolBox) -> None:
        trajectory, chat = self._trajectory, self._chat
        segment, before = trajectory.segments[-1], trajectory.messages
        prompt, start = list(segment.token_ids), len(segment.token_ids)
        try:
            ids = written(chat, Scene(env, trajectory.task, 0, tools.schemas, before), message)
        except UsageError as problem:  # a message that this policy sampled, and yet nothing to end a run for
            raise EngineError(f"A stored turn cannot be written again: {problem}") from problem
        parsed = distinct(self._parse(prompt, ids, tools), trajectory)
        segment.add_context(ids)
        trajectory.messages.append(chat.assistant_message(parsed))
        place, end = len(trajectory.segments) - 1, start + len(ids)
        turn = Turn(index=0, segment=place, start=start, end=end, text=parsed.content)
        make, texts = (
            await self._call(turn, parsed, tools) if parsed.calls else await self._reply(turn, parsed, env)
        )
        self._go_on(turn, make, texts, tools)


def said_in(trajectory: Trajectory) -> list[Message]:
    """What the policy said, and what was done first in its place; not what an opening holds as examples."""
    said = [message for message in trajectory.messages if message["role"] == "assistant"]
    own = len(trajectory.turns) + trajectory.metadata.get(STARTED, 0)
    return said[-own:] if own else []

"""A tool on the bench: called by hand, in a session of its own, with the limits of an episode."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from agentrl.chat import ParsedCall
from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.inspect.plain import in_bytes, plain_chat
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.rollout.toolbox import ToolBox, ToolLedger
from agentrl.tool import Tool, ToolContext
from agentrl.trajectory import Call

if TYPE_CHECKING:
    from agentrl.sandbox import Sandbox

CLOSE_SECONDS = 10.0
KEEP_CHARACTERS = 1_000_000


class Bench:
    """Calls one tool. Made by :func:`on_bench`."""

    def __init__(self, box: ToolBox, limits: Rollout) -> None:
        self._box, self._limits = box, limits
        self._chat = plain_chat()
        self._numbers = itertools.count()
        self._started = time.monotonic()

    @property
    def schema(self) -> Mapping[str, Any]:
        """The tool as a model is told of it."""
        found: Mapping[str, Any] = self._box.schemas[0]["function"]  # type: ignore[assignment]
        return found

    async def call(self, arguments: Mapping[str, Any]) -> Call:
        """Call the tool; its observation is shortened as for a model.

        Raises:
            InfrastructureError: a machine failed.
            UsageError: the tool is at fault.
        """
        asked = ParsedCall(self.schema["name"], dict(arguments), "", None, f"call-{next(self._numbers)}")
        [answer] = await self._box.answer([asked], elapsed=self._elapsed, left=lambda: math.inf)
        text, cut = self._chat.truncate(answer.observation.text, self._limits.max_observation_tokens)
        answer.observation = dataclasses.replace(answer.observation, text=text)
        answer.truncated = answer.truncated or cut
        return answer

    def _elapsed(self) -> float:
        return time.monotonic() - self._started


@asynccontextmanager
async def on_bench(tool: Tool, limits: Rollout, sandbox: Sandbox | None) -> AsyncIterator[Bench]:
    """Open a tool as an episode would, and close it with its sessions.

    Args:
        tool: as found or made.
        limits: in tokens; ``tool_seconds`` and ``max_observation_tokens`` count.
        sandbox: where it opens sessions; ``None`` if it needs none.

    Raises:
        UserCodeError: the tool's ``open`` raised.
        InfrastructureError: what it needs has failed.
    """
    sessions = EpisodeSessions(sandbox)
    context = ToolContext(episode_id="bench", open_session=sessions.open, run_once=sessions.run)
    box = ToolBox.of(Env(tasks=(), tools=(tool,)), context, limits, ToolLedger(), KEEP_CHARACTERS)
    try:
        await box.open()
        yield Bench(box, in_bytes(limits))
    finally:
        await box.close(CLOSE_SECONDS)
        await sessions.close(CLOSE_SECONDS)

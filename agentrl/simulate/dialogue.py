"""What episodes in virtual time consist of: a chat of a few tokens, an environment with one tool, its server.

The engine's model counts thousands of tokens a turn; the trajectory holds three that stand for
them: the first, one in the middle, and the last. So the episode loop runs as it is, and its record
stays small.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from agentrl.chat import Chat, Message, ParsedCall, ParsedTurn
from agentrl.env import Env
from agentrl.reward import reward
from agentrl.task import Task
from agentrl.tool import tool
from agentrl.trajectory import Trajectory

CALL, ANSWER, STOP, CONTEXT = 1, 2, 3, 0


def spoken(seconds: float | None) -> list[int]:
    """A turn: a call that takes the tool so many seconds, or with ``None`` the answer."""
    return [ANSWER, 0, STOP] if seconds is None else [CALL, round(seconds * 1000), STOP]


class ModelChat(Chat):
    """The chat of :func:`spoken` turns: no text, no tokenizer."""

    def __init__(self) -> None:
        self.tokenizer, self.vision, self.name = None, None, "simulated"
        self.stop_token_ids, self.stop_strings, self.banned_token_ids = (STOP,), (), ()

    def encode(self, text: str) -> list[int]:
        """One token for any text."""
        return [CONTEXT]

    def decode(self, ids: Sequence[int]) -> str:
        """Nothing to read."""
        return ""

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """One token."""
        return [CONTEXT]

    def extend(
        self,
        prompt_ids: Sequence[int],
        completion_ids: Sequence[int],
        new_messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
    ) -> list[int]:
        """What was sampled, and one token for what came back."""
        return [*prompt_ids, *completion_ids, CONTEXT]

    def parse(
        self, prompt_ids: Sequence[int], completion_ids: Sequence[int], tools: Sequence[dict[str, Any]] = ()
    ) -> ParsedTurn:
        """The call, if it is one."""
        kind, milliseconds, _ = completion_ids
        if kind == ANSWER:
            return ParsedTurn("", None, ())
        call = ParsedCall("work", {"seconds": milliseconds / 1000}, "", None, f"call_{len(prompt_ids)}")
        return ParsedTurn("", None, (call,))

    def truncate(self, text: str, limit: int) -> tuple[str, bool]:
        """The text as it is."""
        return text, False


class ToolServer:
    """A tool server with so many places; calls beyond them wait in their order.

    Args:
        places: calls that run at once; ``None``: as many as come.
    """

    def __init__(self, places: int | None = None) -> None:
        self.places, self.running = places, 0
        self.seconds = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Calls without a place."""
        return len(self._waiting)

    @property
    def load(self) -> float:
        """Calls running or waiting, by places; 0 where places do not end."""
        return 0.0 if self.places is None else (self.running + self.waiting) / self.places

    async def call(self, seconds: float) -> None:
        """Take so long, once there is a place."""
        if self.places is not None and self.running >= self.places:
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            await place
        self.running += 1
        try:
            await asyncio.sleep(seconds)
            self.seconds += seconds
        finally:
            self.running -= 1
            while self._waiting:
                place = self._waiting.popleft()
                if not place.done():
                    place.set_result(None)
                    break


class Work(Env):
    """Episodes whose tool takes time.

    Args:
        server: where its calls run.
    """

    def __init__(self, server: ToolServer) -> None:
        super().__init__()
        self._server = server

    def tasks(self, split: str) -> Iterator[Task]:
        """Endless."""
        number = 0
        while True:
            yield Task("", id=str(number))
            number += 1

    @tool(seconds=1e9)
    async def work(self, seconds: float) -> str:
        """Take a while."""
        await self._server.call(seconds)
        return ""

    @reward
    def one(self, episode: Trajectory) -> float:
        """Nothing is judged here."""
        return 1.0

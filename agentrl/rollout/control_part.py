"""What an algorithm may do to an episode while it is played."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentrl.algorithms.spec import Part
from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.rollout.context import Context, Tools
from agentrl.tool import Tool
from agentrl.trajectory import Message

if TYPE_CHECKING:
    from agentrl.chat import Chat


@dataclass(frozen=True)
class Interruption:
    """How a turn goes on that a limit has cut off: behind these tokens, for so many more at most."""

    ids: list[int]
    max_tokens: int


class Control(Part):
    """The plain loop: a turn ends where it ends, and the context only grows."""

    def reserved(self, chat: Chat, limits: Rollout) -> int:  # noqa: ARG002 - for others
        """Tokens of a trajectory that only an interrupted turn may use."""
        return 0

    def interruption(
        self, chat: Chat, limits: Rollout, prompt: Sequence[int], completion: Sequence[int]
    ) -> Interruption | None:  # noqa: ARG002 - for others
        """How a turn that was cut off and holds no call goes on; ``None``: it does not."""
        return None

    def context(self, chat: Chat, tools: Tools, prompt: list[int], messages: list[Message]) -> Context:
        """What keeps an episode's context; see :class:`agentrl.rollout.context.Context`."""
        return Context(chat, tools, prompt, messages)

    async def invoke(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        """Make a call of a tool; see :meth:`agentrl.Tool.invoke`."""
        return await tool.invoke(arguments)

    def attempts(self) -> Callable[..., Any] | None:
        """What plays the episodes of a runner, as :class:`agentrl.rollout.attempt.Attempt` is made; ``None``:
        that."""
        return None

    def held_out(self) -> Control:
        """What is done to held-out episodes of a training."""
        return self

    def check(self, env: Env) -> None:
        """Refuse an environment whose episodes cannot be played so.

        Raises:
            ConfigError: what it lacks.
        """

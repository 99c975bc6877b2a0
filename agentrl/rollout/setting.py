"""What the episodes of a runner share, and how one of them ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.events import EventSink
from agentrl.rollout.admission import Load
from agentrl.rollout.control_part import Control
from agentrl.rollout.pictures import PictureStore
from agentrl.rollout.policy import Policy, SceneAware
from agentrl.rollout.toolbox import ToolLedger
from agentrl.terms import Shape
from agentrl.tool import BlockingCalls
from agentrl.trajectory import Message, Status

if TYPE_CHECKING:
    from agentrl.chat import Chat
    from agentrl.sandbox import Sandbox


Opening = Callable[[list[Message]], list[Message]]
"""Makes another opening of the environment's."""


@dataclass(frozen=True)
class Setting:
    """What all episodes of a runner share; see :class:`agentrl.rollout.EpisodeRunner`."""

    env: Env
    chat: Chat
    policy: Policy
    limits: Rollout
    sandbox: Sandbox | None
    events: EventSink
    clock: Callable[[], float] | None
    keep_characters: int
    pictures: PictureStore | None = None
    control: Control = field(default_factory=Control)
    shape: Shape | None = None
    load: Load = field(default_factory=Load)
    opening: Opening | None = None
    start: Sequence[Message] = ()
    ledger: ToolLedger = field(default_factory=ToolLedger)
    blocking: BlockingCalls = field(default_factory=BlockingCalls)

    def opened(self, messages: Sequence[Message]) -> list[Message]:
        """The dialogue that opens an episode, by what the environment opens it with."""
        return list(messages) if self.opening is None else self.opening(list(messages))

    @cached_property
    def reserved(self) -> int:
        """Tokens of a trajectory that only an interrupted turn may use."""
        return self.control.reserved(self.chat, self.limits)

    @cached_property
    def player(self) -> SceneAware | None:
        """The policy, if it is told about each episode. Finding out takes 20 µs, so it is done once."""
        return self.policy if isinstance(self.policy, SceneAware) else None


class Ended(Exception):
    """The episode is over; how, and why in words."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason

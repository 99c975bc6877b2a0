"""What answers tool calls: the one interface between the protocols of the server and where tools run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from agentrl.observation import Observation
from agentrl.task import Task

CallStatus = Literal["ok", "error", "malformed", "unknown", "invalid", "timeout", "raised"]
"""As in :class:`agentrl.Call`: how a call was answered. What machinery did is an exception instead."""


@dataclass(frozen=True, slots=True)
class CallRequest:
    """One tool call.

    Args:
        tool: its name.
        arguments: as the model gave them; checked by the tool.
        session: whose call it is: calls of a session run in their order and share its state. Empty for
            a call that belongs to none: it gets tools of its own, of which nothing is left.
        id: unique among the session's calls. The same id again gets the first one's answer, and nothing is
            run twice.
        seconds: the deadline, after which the work is stopped; ``None`` takes the tool's own.
    """

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    session: str = ""
    id: str = ""
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """What came of a call.

    Args:
        status: see :data:`CallStatus`.
        observation: what the model is shown.
        seconds: how long the tool took.
        replayed: whether this is the answer of an earlier request with the same id.
    """

    status: CallStatus
    observation: Observation
    seconds: float = 0.0
    replayed: bool = False


class ToolHost(ABC):
    """Tools at work, here or on other machines. An async context manager that closes itself."""

    @abstractmethod
    async def schemas(self) -> list[dict[str, Any]]:
        """The tools on offer, in the form of OpenAI's function calling."""

    @abstractmethod
    async def open(self, session: str, *, task: Task | None = None, tools: Sequence[str] = ()) -> None:
        """Begin a session. Done again for one that is open, it changes nothing.

        Args:
            session: its name, chosen by the caller.
            task: what the episode is about, for tools that ask.
            tools: names of those it may call; empty for all.

        Raises:
            NotFound: there is no tool of such a name.
            SessionLost: a session of this name has been here and is gone, with what it held.
            ServerBusy: there is no room for another one, or the server is ending.
        """

    @abstractmethod
    async def call(self, request: CallRequest) -> CallAnswer:
        """Make a call, at most once.

        Cancelling the caller cancels the work.

        Raises:
            SessionLost: the session was never opened here, or is gone with what it held.
            ServerBusy: there is no room in the queue, or the server is ending. Nothing was run.
            InfrastructureError: the sandbox, or a machine, failed in mid-call.
        """

    @abstractmethod
    async def end(self, session: str) -> None:
        """End a session: stop what it runs and free what it holds. Unknown names are no error."""

    def check_ready(self) -> None:  # noqa: B027  most are, always
        """See whether calls are taken.

        Raises:
            ServerBusy: they are not, for now or for good.
        """

    @abstractmethod
    async def close(self) -> None:
        """End every session and free everything. May be called twice."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

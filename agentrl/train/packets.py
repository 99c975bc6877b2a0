"""Groups of episodes as text, as runs share them, and what is believed of those that come from outside."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agentrl.errors import DataError
from agentrl.trajectory import Message

MOST_BYTES = 1 << 20
"""Of a packet, as JSON."""

NODE = r"^[A-Za-z0-9_.-]{1,80}$"
"""What a node's name looks like: it is part of file names."""


class _Received(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Function(_Received):
    """What a call asks for."""

    name: str = Field(max_length=200)
    arguments: dict[str, object]


class ToolCall(_Received):
    """A call in a message."""

    id: str = Field("", max_length=200)
    type: Literal["function"] = "function"
    function: Function


class Said(_Received):
    """A message of the model. Tools' answers do not travel: who receives it asks their own."""

    role: Literal["assistant"]
    content: str = ""
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=64)] | None = None


class Completion(_Received):
    """An episode.

    Args:
        messages: what the model said, in order.
        reward: what the sender says it was worth. It is good for choosing alone.
    """

    messages: list[Said] = Field(min_length=1, max_length=256)
    reward: float

    @field_validator("reward")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError("is not finite")
        return value


class Packet(_Received):
    """A group: the episodes of a task.

    Args:
        format: of the packet.
        node: who sent it.
        env: the environment's name.
        step: of the sender's training.
        task: its id.
        prompt: its prompt, by which it is known to be the same task.
        completions: the episodes.
    """

    format: Literal["agentrl-swarm-1"] = "agentrl-swarm-1"
    node: str = Field(pattern=NODE)
    env: str = Field(max_length=1000)
    step: int = Field(ge=0)
    task: str = Field(max_length=1000)
    prompt: str
    completions: list[Completion] = Field(min_length=2, max_length=64)

    def to_json(self) -> bytes:
        """What travels."""
        return self.model_dump_json(exclude_none=True).encode()

    def dialogues(self) -> list[list[Message]]:
        """What was said, episode by episode."""
        return [
            [message.model_dump(exclude_none=True) for message in completion.messages]
            for completion in self.completions
        ]


def read_packet(data: bytes) -> Packet:
    """A packet that came from outside.

    Raises:
        DataError: it is too large, or no packet.
    """
    if len(data) > MOST_BYTES:
        raise DataError(f"a packet of {len(data)} bytes is larger than {MOST_BYTES}")
    try:
        return Packet.model_validate_json(data)
    except (ValidationError, RecursionError) as problem:
        raise DataError(f"this is no packet: {problem}") from problem

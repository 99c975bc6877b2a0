"""What a chat is made of: messages going in, and the parsed turn of a model coming out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]
"""An OpenAI-style message: ``role`` and ``content`` (text, or a list of parts), and where they
apply ``reasoning_content``, ``tool_calls``, ``tool_call_id`` and ``name``."""

ToolSchema: TypeAlias = dict[str, Any]
"""A tool as the OpenAI API describes it: ``{"type": "function", "function": {name, description,
parameters}}``."""


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """One attempt of the model to call a tool, well formed or not.

    Attributes:
        name: the tool's name, or None where the call does not say.
        arguments: the arguments by name, or None where they could not be read.
        raw: the call as the model wrote it, without its markers.
        error: None for a well-formed call, else a sentence that tells the model what is wrong.
            Whether the tool exists and the arguments fit it is not checked here.
        id: unique within the conversation, the same when the same tokens are parsed again.
    """

    name: str | None
    arguments: dict[str, Any] | None
    raw: str
    error: str | None
    id: str


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """What one completion says: its text, its reasoning (None if there is none), and its calls in order."""

    content: str
    reasoning: str | None
    calls: tuple[ParsedCall, ...]

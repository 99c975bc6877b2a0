"""Brings messages into the one shape that all renderers read alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.chat.types import Message
from agentrl.errors import DataError

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


def normal(message: Message) -> Message:
    """A message in the one shape that all renderers read alike.

    Raises:
        DataError: its role is unknown, or the arguments of a call are not a JSON object.
    """
    role = message.get("role")
    if role not in _ROLES:
        raise DataError(f"a message has the role {role!r}; roles are {', '.join(sorted(_ROLES))}")
    result = {**message, "content": _content(message.get("content"))}
    if role != "assistant":
        return result
    content = result["content"]
    if isinstance(content, str) and not result.get("reasoning_content") and content.startswith("<think>"):
        reasoning, closed, rest = content.removeprefix("<think>").partition("</think>")
        if closed:
            result["reasoning_content"], result["content"] = reasoning.strip("\n"), rest.lstrip("\n")
    if calls := message.get("tool_calls"):
        result["tool_calls"] = [_normal_call(call) for call in calls]
    return result


def settle_orphans(messages: Sequence[Message]) -> list[Message]:
    """A conversation whose tool messages all answer a call of the assistant message before them.

    A malformed call is text in its message, so what it was answered has no call to belong to, and some
    families refuse such a conversation. Those answers become words of the user, after the others.
    """
    settled: list[Message] = []
    orphans: list[Message] = []
    calls: set[str] = set()
    for message in messages:
        role = message.get("role")
        if role == "tool" and message.get("tool_call_id") not in (*calls, None):
            orphans.append({"role": "user", "content": message.get("content")})
            continue
        if role != "tool":
            settled += orphans
            orphans = []
        if role == "assistant":
            calls = {str(call.get("id")) for call in message.get("tool_calls") or ()}
        settled.append(message)
    return settled + orphans


def _content(content: Any) -> str | list[Any]:
    """Text for text, however it was split into parts: markup must not be put together from two of them."""
    if content is None or isinstance(content, str):
        return content or ""
    parts: list[Any] = []
    for part in content:
        part = {"type": "text", "text": part} if isinstance(part, str) else dict(part)
        if part.get("type") == "text" and parts and parts[-1].get("type") == "text":
            parts[-1]["text"] += part["text"]
        else:
            parts.append(part)
    if all(part.get("type") == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _normal_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function", call))
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments else {}
        except ValueError:
            arguments = None
    if not isinstance(arguments, dict) or not isinstance(function.get("name"), str):
        raise DataError(
            f"an assistant message calls {function.get('name')!r} with {function.get('arguments')!r}; a call "
            "needs a name and a JSON object of arguments"
        )
    return {
        "id": str(call.get("id", "")),
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }

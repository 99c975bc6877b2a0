"""An attempt at a task as words, and an opening that shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentrl.config import Rollout
from agentrl.trajectory import Message, Trajectory, words_of

if TYPE_CHECKING:
    from agentrl.chat import Chat

MARGIN = 32
"""Tokens for what a chat format puts around a message, and for words that meet at seams."""

LEAST = 32
"""Tokens of an attempt that are worth being shown."""


def room_beside(chat: Chat, limits: Rollout, prompt: int, words: str) -> int:
    """Tokens that an attempt may take in an opening.

    Args:
        chat: the chat format.
        limits: with ``max_prompt_tokens``.
        prompt: tokens of the opening without it.
        words: what stands around it.

    Returns:
        0 where there is too little room.
    """
    room = limits.max_prompt_tokens - prompt - MARGIN - len(chat.encode(words))
    return room if room >= LEAST else 0


def shown(chat: Chat, episode: Trajectory, words: str, room: int) -> str:
    """``words`` with the attempt in the place of ``{attempt}``, shortened to so many tokens."""
    text, _ = chat.truncate(attempt_of(episode), room)
    return words.replace("{attempt}", text)


def attempt_of(episode: Trajectory) -> str:
    """What an episode's policy said and saw, as text."""
    first = next((i for i, each in enumerate(episode.messages) if each["role"] == "assistant"), None)
    lines: list[str] = []
    for message in [] if first is None else episode.messages[first:]:
        who = {"assistant": "You", "user": "User"}.get(message["role"], "Result")
        text = words_of(message)
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        if text or not calls:
            lines.append(f"{who}: {text}")
        lines += [f"{who} called {call['name']}: {_plain(call['arguments'])}" for call in calls]
    return "\n".join(lines)


def with_words(messages: Sequence[Message], words: str) -> list[Message]:
    """An opening whose last message of the user goes on with these words."""
    *before, last = messages
    content = last.get("content")
    if last["role"] != "user" or not isinstance(content, str | list):
        return [*messages, {"role": "user", "content": words}]
    if isinstance(content, str):
        return [*before, {**last, "content": f"{content}\n\n{words}"}]
    return [*before, {**last, "content": [*content, {"type": "text", "text": f"\n\n{words}"}]}]


def _plain(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)

"""Which sampled tokens a request continues: an agent sends its whole dialogue each time, as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentrl.chat import Message, ToolSchema
from agentrl.trajectory import Segment, Turn

if TYPE_CHECKING:
    from agentrl.chat import Chat

Key = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a turn begins.

    Args:
        prompt_ids: everything before it.
        follows: the turn whose dialogue the request goes on with, if there is one.
        grows: the segment that the prompt extends; ``None`` where a new one has to begin.
        new: the messages that come after the turn that it follows.
    """

    prompt_ids: list[int]
    follows: Turn | None = None
    grows: int | None = None
    new: Sequence[Message] = ()


class History:
    """The dialogues of an episode and the tokens they are made of.

    A request continues a turn if its first messages are those the turn was sampled from and the one
    it gave. Then its prompt is that turn's tokens and the new messages after them: nothing sampled is
    tokenized again. Where another request has gone on from there already, the same tokens begin a
    new segment, in which they are context. A dialogue that no turn gave is rendered anew.

    Args:
        chat: the chat format.
        segments: the episode's; they are read here and grown by the owner.
    """

    def __init__(self, chat: Chat, segments: Sequence[Segment]) -> None:
        self._chat, self._segments = chat, segments
        self._turns: dict[Key, Turn] = {}
        self._growing: set[int] = set()

    def find(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> Start:
        """Where the turn that a request asks for begins.

        Raises:
            DataError: the messages are no dialogue that the chat format can render.
        """
        listing, seen = _listing(tools), tuple(_seen(message) for message in messages)
        for length in range(len(seen) - 1, 0, -1):
            turn = self._turns.get((listing, seen[:length]))
            if turn is None:
                continue
            new, tokens = messages[length:], self._segments[turn.segment].token_ids
            prompt = self._chat.extend(tokens[: turn.start], tokens[turn.start : turn.end], new, tools)
            if prompt is None:
                break
            free = len(tokens) == turn.end and turn.segment not in self._growing
            return Start(prompt, turn, turn.segment if free else None, new)
        return Start(self._chat.prompt(messages, tools))

    def hold(self, start: Start) -> None:
        """Keep other requests from growing the segment meanwhile."""
        if start.grows is not None:
            self._growing.add(start.grows)

    def release(self, start: Start) -> None:
        """Undo :meth:`hold`."""
        if start.grows is not None:
            self._growing.discard(start.grows)

    def remember(self, turn: Turn, messages: Iterable[Message], tools: Sequence[ToolSchema]) -> None:
        """A turn was taken: ``messages`` are its dialogue, with itself as the last."""
        self._turns[_listing(tools), tuple(_seen(message) for message in messages)] = turn


def _listing(tools: Sequence[ToolSchema]) -> str:
    return json.dumps(tools, sort_keys=True)


def _seen(message: Message) -> tuple[Any, ...]:
    """What makes two messages the same. Clients write calls anew, and drop reasoning and outer whitespace."""
    content = message["content"]
    if message["role"] != "assistant":
        return message["role"], content
    calls = (call["function"] for call in message.get("tool_calls") or ())
    called = tuple((call["name"], json.dumps(call["arguments"], sort_keys=True)) for call in calls)
    return "assistant", content.strip(), called

"""The context in which an episode's next turn is sampled, and what becomes of older observations in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentrl.trajectory import Message

if TYPE_CHECKING:
    from agentrl.chat import Chat

Tools = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Following:
    """A context that a turn may be sampled in.

    Args:
        ids: its tokens.
        messages: the dialogue that they stand for.
        grows: whether they are those of the turn before, its completion, and new ones behind them: then
            they belong to the same segment.
    """

    ids: list[int]
    messages: list[Message]
    grows: bool


@dataclass(frozen=True)
class Exchange:
    """A turn and what answered it: the tokens sampled, the message they were read as, and the answers."""

    completion: list[int]
    said: Message
    answers: list[Message]


class Context:
    """Everything that was sampled and observed, exactly as it was.

    Where the chat format cannot prove a continuation, the dialogue is rendered anew.

    Args:
        chat: the chat format.
        tools: the schemas of the tools that the prompt shows.
        prompt: the first context.
        messages: the dialogue that it stands for.
    """

    def __init__(self, chat: Chat, tools: Tools, prompt: list[int], messages: list[Message]) -> None:
        self._chat, self._tools = chat, tools
        self._ids, self._messages = list(prompt), list(messages)
        self._completion: list[int] = []
        self._said: Message = {}

    def take(self, completion: list[int], said: Message) -> None:
        """The policy took a turn in the newest context."""
        self._completion, self._said = completion, said

    def after(self, answers: list[Message]) -> Following:
        """The context that follows the turn with these answers; changes nothing."""
        return self._extended(self._ids, self._messages, Exchange(self._completion, self._said, answers))

    def accept(self, following: Following, answers: list[Message]) -> None:  # noqa: ARG002 - for others
        """The next turn is sampled in this one."""
        self._ids, self._messages = following.ids, following.messages

    def _extended(self, ids: list[int], messages: list[Message], exchange: Exchange) -> Following:
        dialogue = [*messages, exchange.said, *exchange.answers]
        extended = self._chat.extend(ids, exchange.completion, exchange.answers, self._tools)
        if extended is not None:
            return Following(extended, dialogue, True)
        return Following(self._chat.prompt(dialogue, self._tools), dialogue, False)


class CompressedContext(Context):
    """Older observations are replaced by a stub, and what the policy said stays (WebAgent-R1).

    Nothing sampled is encoded again, unless the chat format cannot prove a continuation.

    Args:
        chat, tools, prompt, messages: as :class:`Context`. The prompt is never compressed.
        stub: what stands in an old observation's place.
        keep: answers to so many turns, the newest ones, stay as they are.
    """

    def __init__(
        self, chat: Chat, tools: Tools, prompt: list[int], messages: list[Message], *, stub: str, keep: int
    ) -> None:
        super().__init__(chat, tools, prompt, messages)
        self._stub, self._keep = stub, keep
        self._acted = list(prompt)
        self._recent: list[Exchange] = []

    def take(self, completion: list[int], said: Message) -> None:
        """The policy took a turn; the oldest observation that is still whole may have to make room."""
        super().take(completion, said)
        if len(self._recent) == self._keep:  # what answers this turn will be the newest of them
            old = self._recent.pop(0)
            answers = [{**message, "content": self._stub} for message in old.answers]
            shorter = self._extended(self._ids, self._messages, Exchange(old.completion, old.said, answers))
            self._ids, self._messages = shorter.ids, shorter.messages

    def after(self, answers: list[Message]) -> Following:
        """The compressed past, the observations that stay whole, and these answers."""
        ids, messages = self._ids, self._messages
        for exchange in [*self._recent, Exchange(self._completion, self._said, answers)]:
            longer = self._extended(ids, messages, exchange)
            ids, messages = longer.ids, longer.messages
        sampled = [*self._acted, *self._completion]
        return Following(ids, messages, ids[: len(sampled)] == sampled)

    def accept(self, following: Following, answers: list[Message]) -> None:
        """The next turn is sampled in this context."""
        self._recent.append(Exchange(self._completion, self._said, answers))
        self._acted = following.ids


def shortened(chat: Chat, texts: Sequence[str], over: int) -> list[str] | None:
    """The texts with ``over`` tokens less in all, each losing its share; ``None`` if none is left."""
    sizes = [len(chat.encode(text)) for text in texts]
    total = sum(sizes)
    if total <= over:
        return None
    return [
        chat.truncate(text, size * (total - over) // total)[0]
        for text, size in zip(texts, sizes, strict=True)
    ]

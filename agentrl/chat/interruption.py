"""What is put behind an unfinished turn so that the model stops thinking and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentrl.chat.core import Chat

OPEN, CLOSE = "<think>", "</think>"


def interruption(
    chat: Chat, prompt_ids: Sequence[int], completion_ids: Sequence[int], text: str
) -> list[int]:
    """The tokens to append to a turn that a limit has cut off: the text on a line of its own, then what
    closes the reasoning, if it is open.

    Reasoning is known by ``<think>`` tags, which the completion holds or the prompt ends with. In a format
    that marks it otherwise the text alone is appended.
    """
    ids = chat.encode(f"\n{text}\n")
    return [*ids, *closing(chat)] if _thinks(chat, prompt_ids, completion_ids) else ids


def closing(chat: Chat) -> list[int]:
    """The tokens that close reasoning: the model's own, where its vocabulary has one."""
    tokenizer = chat.tokenizer
    found = tokenizer.convert_tokens_to_ids(CLOSE)
    known = isinstance(found, int) and found != tokenizer.unk_token_id
    return [*([found] if known else chat.encode(CLOSE)), *chat.encode("\n\n")]


def _thinks(chat: Chat, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> bool:
    """Whether reasoning was opened and not closed."""
    said = chat.decode(completion_ids)
    opened, closed = said.rfind(OPEN), said.rfind(CLOSE)
    if opened == -1 and chat.decode(prompt_ids[-8:]).rstrip().endswith(OPEN):
        return closed == -1
    return opened > closed

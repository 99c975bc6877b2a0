"""What our own renderers share: a token stream under construction, and bits of the ChatML format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from renderers.base import RenderedTokens

from agentrl.chat.types import Message

IM_START, IM_END = "<|im_start|>", "<|im_end|>"


class Stream:
    """Token ids with, for each, the message it belongs to (-1 for none) and whether a model samples it."""

    def __init__(self, encode: Callable[[str], list[int]], ids: Sequence[int] = ()) -> None:
        self._encode = encode
        self.ids = list(ids)
        self._owners = [-1] * len(self.ids)
        self._sampled = [False] * len(self.ids)

    def add(self, *parts: str | int, owner: int = -1, sampled: bool = False) -> None:
        """Appends texts, each encoded on its own, and single tokens."""
        for part in parts:
            new = [part] if isinstance(part, int) else self._encode(part) if part else []
            self.ids.extend(new)
            self._owners.extend([owner] * len(new))
            self._sampled.extend([sampled] * len(new))

    def rendered(self, messages: Sequence[Message]) -> Any:
        """The stream as the ``renderers`` package wants it."""
        return RenderedTokens(
            token_ids=self.ids,
            message_indices=self._owners,
            sampled_mask=self._sampled,
            message_roles=[message["role"] for message in messages],
            message_tool_names=[
                message.get("name") if message["role"] == "tool" else None for message in messages
            ],
        )


def token_id(tokenizer: Any, token: str) -> int:
    """The id of a single token.

    Raises:
        ValueError: the vocabulary has no such token.
    """
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or found == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no token {token!r}, which this chat format is built on")
    return found


def stop_tokens(tokenizer: Any, close: int) -> list[int]:
    """``close`` first, then the other tokens with which a model of this format ends its turn."""
    stops = [close]
    for candidate in (tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")):
        if isinstance(candidate, int) and candidate != tokenizer.unk_token_id and candidate not in stops:
            stops.append(candidate)
    return stops


def until_stop(ids: Sequence[int], stops: Sequence[int]) -> tuple[list[int], bool]:
    """``ids`` before the first stop token, and whether there is one."""
    for index, token in enumerate(ids):
        if token in stops:
            return list(ids[:index]), True
    return list(ids), False


def content_of(message: Mapping[str, Any], image: Sequence[int] = ()) -> list[str | int]:
    """What a message holds: texts and, for each image, the tokens that stand for it.

    Raises:
        ValueError: it holds something else, or an image where there are no tokens for one.
    """
    content = message.get("content") or ""
    if isinstance(content, str):
        return [content]
    pieces: list[str | int] = []
    for part in content:
        if part.get("type") == "text":
            pieces.append(part["text"])
        elif part.get("type") == "image" and image:
            pieces += image
        else:
            raise ValueError(
                f"a message holds a part of type {part.get('type')!r}, which this chat format has no form for"
            )
    return pieces


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message.

    Raises:
        ValueError: it holds something other than text.
    """
    return "".join(str(piece) for piece in content_of(message))


def joined(pieces: Iterable[str | int]) -> list[str | int]:
    """The pieces with neighbouring texts made one, so that they are encoded together."""
    found: list[str | int] = []
    for piece in pieces:
        if isinstance(piece, str) and found and isinstance(found[-1], str):
            found[-1] += piece
        else:
            found.append(piece)
    return found


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

"""The chat format of those who are no model: a person, a script. It needs no tokenizer and no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentrl.config import Rollout

if TYPE_CHECKING:
    from agentrl.chat import Chat

BYTES_PER_TOKEN = 4
"""What a token is taken to be where there is no tokenizer to count them."""

_CONTROLS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
_FIRST_CONTROL = 256
_COUNTED = ("max_turn_tokens", "max_observation_tokens", "max_prompt_tokens", "max_trajectory_tokens")


class ByteTokenizer:
    """Every byte of UTF-8 is a token; more begin and end messages and images, and no text spells them."""

    name_or_path = "bytes"
    unk_token_id = None
    eos_token_id = _FIRST_CONTROL + 1

    def encode(self, text: str, **_options: object) -> list[int]:
        """The text's bytes; halves of surrogate pairs become ``?``."""
        return list(text.encode("utf-8", "replace"))

    def decode(self, ids: Sequence[int], **_options: object) -> str:
        """The text of ``ids``, control tokens spelled out; bytes that make no character become ``�``."""
        spelled = (
            _CONTROLS[token - _FIRST_CONTROL].encode() if token >= _FIRST_CONTROL else bytes([token])
            for token in ids
        )
        return b"".join(spelled).decode("utf-8", "replace")

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """The id of a control token."""
        return _FIRST_CONTROL + _CONTROLS.index(token) if token in _CONTROLS else None


def plain_chat() -> Chat:
    """ChatML with calls as JSON, on bytes. Tools are not listed in the prompt: whoever speaks knows them."""
    from agentrl.chat import Chat
    from agentrl.chat.vision import Vision

    tokenizer = ByteTokenizer()
    vision = Vision.of(tokenizer)
    return Chat(tokenizer, "chatml-json", options={"tools_in_prompt": False}, vision=vision)


def in_bytes(limits: Rollout, **changes: object) -> Rollout:
    """The limits where every byte is a token: what counts tokens counts :data:`BYTES_PER_TOKEN` for each.

    Args:
        limits: a model's.
        **changes: further fields, as they shall be.
    """
    counted = {name: BYTES_PER_TOKEN * getattr(limits, name) for name in _COUNTED}
    return limits.model_copy(update={**counted, **changes})

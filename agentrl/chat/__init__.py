"""Messages to tokens, tokens to tool calls, and sampled streams extended without re-rendering.

:class:`Chat` pairs a tokenizer with a *renderer*, the rules of one chat format. Importing this
package is cheap: the ``renderers`` package is loaded when the first :class:`Chat` is made, and
``transformers`` only by :meth:`Chat.load`.
"""

from __future__ import annotations

from agentrl.chat.core import Chat
from agentrl.chat.truncate import truncate_tokens
from agentrl.chat.types import Message, ParsedCall, ParsedTurn, ToolSchema

__all__ = ["Chat", "Message", "ParsedCall", "ParsedTurn", "ToolSchema", "truncate_tokens"]

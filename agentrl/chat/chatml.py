"""``chatml-json``: ChatML with tool calls as JSON in ``<tool_call>`` tags. For any ChatML tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from renderers.base import (
    ParsedResponse,
    ParsedToolCall,
    ToolCallParseStatus,
)
from renderers.configs import BaseRendererConfig

from agentrl.chat.stream import (
    IM_END,
    IM_START,
    Stream,
    content_of,
    joined,
    stop_tokens,
    text_of,
    to_json,
    token_id,
    until_stop,
)
from agentrl.chat.types import Message, ToolSchema
from agentrl.chat.vision import MARKS

_CALL = re.compile(r"<tool_call>(?P<body>.*?)(?P<close></tool_call>|\Z)", re.DOTALL)
_THINK = re.compile(r"\s*<think>(?P<reasoning>.*?)(?P<close></think>|\Z)", re.DOTALL)
_TOOLS = """# Tools
You can call these functions:
{tools}
To call one, write:
<tool_call>
{{"name": <function name>, "arguments": <arguments as a JSON object>}}
</tool_call>"""


class ChatMLConfig(BaseRendererConfig):
    """Options of :class:`ChatMLRenderer`.

    Attributes:
        tools_in_prompt: list the tools in the system message. Turn it off for a policy that has been
            trained on its tools and needs no reminder, to keep prompts short.
    """

    name: Literal["chatml-json"] = "chatml-json"
    tools_in_prompt: bool = True
    _internal_fields: ClassVar[frozenset[str]] = frozenset({"tools_in_prompt"})


class ChatMLRenderer:
    """ChatML turns; calls in ``<tool_call>`` tags, results in ``<tool_response>`` tags of a user turn.

    The tags may be tokens of the vocabulary or a spelling in ordinary ones: calls are found in the
    decoded text of a completion, so both parse alike. Needs ``<|im_start|>`` and ``<|im_end|>`` as
    tokens, nothing else; images need those of Qwen-VL.
    """

    config_class = ChatMLConfig
    is_prefix_stable = True

    def __init__(self, tokenizer: Any, config: ChatMLConfig | None = None) -> None:
        self._tokenizer = tokenizer
        self.config = config or ChatMLConfig()
        self._start = token_id(tokenizer, IM_START)
        self._end = token_id(tokenizer, IM_END)
        self._stops = stop_tokens(tokenizer, self._end)
        marks = [tokenizer.convert_tokens_to_ids(mark) for mark in MARKS]
        self._image = [] if {None, tokenizer.unk_token_id} & {*marks} else marks

    def get_stop_token_ids(self) -> list[int]:
        return list(self._stops)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSchema] | None = None,
        add_generation_prompt: bool = False,
    ) -> Any:
        stream = Stream(self._encode)
        listing = ""
        if tools and self.config.tools_in_prompt:
            listing = _TOOLS.format(tools="\n".join(to_json(tool.get("function", tool)) for tool in tools))
            if messages[0]["role"] not in ("system", "developer"):
                self._turn(stream, "system", [listing], owner=-1)
        self._add(stream, messages, first_suffix=listing)
        if add_generation_prompt:
            stream.add(self._start, "assistant\n")
        return stream.rendered(messages)

    def render_ids(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSchema] | None = None,
        add_generation_prompt: bool = False,
    ) -> list[int]:
        rendered = self.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
        return list(rendered.token_ids)

    def bridge_to_next_turn(
        self,
        previous_prompt_ids: Sequence[int],
        previous_completion_ids: Sequence[int],
        new_messages: Sequence[Message],
        *,
        tools: Sequence[ToolSchema] | None = None,  # noqa: ARG002 - part of the protocol
    ) -> Any:
        """The sampled stream, closed if the model did not close it, and the new messages after it."""
        if not new_messages or any(message["role"] == "assistant" for message in new_messages):
            return None
        stream = Stream(self._encode, [*previous_prompt_ids, *previous_completion_ids])
        if not previous_completion_ids or previous_completion_ids[-1] not in self._stops:
            stream.add(self._end)
        stream.add("\n")
        self._add(stream, new_messages)
        stream.add(self._start, "assistant\n")
        return stream.rendered(new_messages)

    def parse_response(
        self,
        token_ids: Sequence[int],
        *,
        tools: Sequence[ToolSchema] | None = None,  # noqa: ARG002 - JSON needs no types to be read
        prompt_ids: Sequence[int] | None = None,  # noqa: ARG002 - the prompt never opens reasoning
    ) -> Any:
        ids, _ = until_stop(token_ids, self._stops)
        text = self._tokenizer.decode(ids, skip_special_tokens=False)
        reasoning = None
        if match := _THINK.match(text):
            reasoning = match["reasoning"].strip()
            text = text[match.end() :]
        content = "\n".join(piece.strip() for piece in _CALL.sub("\0", text).split("\0") if piece.strip())
        return ParsedResponse(
            content=content,
            reasoning_content=reasoning,
            tool_calls=[
                _parse_call(match["body"].strip(), bool(match["close"])) for match in _CALL.finditer(text)
            ],
            reasoning_complete=match is None or bool(match["close"]),
        )

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _turn(self, stream: Stream, role: str, pieces: Sequence[str | int], *, owner: int) -> None:
        stream.add(self._start, *joined([f"{role}\n", *pieces]), self._end, "\n", owner=owner)

    def _add(self, stream: Stream, messages: Sequence[Message], first_suffix: str = "") -> None:
        results: list[str | int] = []
        for index, message in enumerate(messages):
            role = message["role"]
            if role == "assistant":
                self._add_assistant(stream, message, index)
            elif role == "tool":
                opening = "\n<tool_response>\n" if results else "<tool_response>\n"
                results += [opening, *content_of(message, self._image), "\n</tool_response>"]
                if index + 1 == len(messages) or messages[index + 1]["role"] != "tool":
                    self._turn(stream, "user", results, owner=index)
                    results = []
            else:
                pieces = [piece for piece in content_of(message, self._image) if piece != ""]
                suffix = first_suffix if index == 0 and role != "user" else ""
                if suffix:
                    pieces += ["\n\n", suffix] if pieces else [suffix]
                self._turn(stream, "system" if role == "developer" else role, pieces, owner=index)

    def _add_assistant(self, stream: Stream, message: Message, index: int) -> None:
        stream.add(self._start, "assistant\n", owner=index)
        parts = [text] if (text := text_of(message)) else []
        for call in message.get("tool_calls") or ():
            function = call["function"]
            body = to_json({"name": function["name"], "arguments": function["arguments"]})
            parts.append(f"<tool_call>\n{body}\n</tool_call>")
        reasoning = message.get("reasoning_content")
        opening = f"<think>\n{reasoning}\n</think>\n\n" if reasoning else ""
        stream.add(opening + "\n".join(parts), self._end, owner=index, sampled=True)
        stream.add("\n", owner=index)


def _parse_call(body: str, closed: bool) -> Any:
    if not closed:
        return ParsedToolCall(raw=body, status=ToolCallParseStatus.UNCLOSED_BLOCK)
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return ParsedToolCall(raw=body, status=ToolCallParseStatus.INVALID_JSON)
    if not isinstance(call, dict):
        return ParsedToolCall(raw=body, status=ToolCallParseStatus.MALFORMED_STRUCTURE)
    name, arguments = call.get("name"), call.get("arguments", {})
    if not isinstance(name, str) or not name:
        return ParsedToolCall(raw=body, arguments=arguments, status=ToolCallParseStatus.MISSING_NAME)
    return ParsedToolCall(raw=body, name=name, arguments=arguments)

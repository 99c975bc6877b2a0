"""``code-fence``: the model writes Python in a fence, and reads its output in the same turn.

A turn looks like this; generation stops at the closing fence, and the lines of the output block are
context that the model goes on from::

    Let me compute.
    ```python
    print(6 * 7)
    ```
    ```output
    42
    ```
    The answer is 42.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from renderers.base import (
    ParsedResponse,
    ParsedToolCall,
    ToolCallParseStatus,
)
from renderers.configs import BaseRendererConfig

from agentrl.chat.stream import IM_END, IM_START, Stream, stop_tokens, text_of, token_id, until_stop
from agentrl.chat.types import Message, ToolSchema

TOOL = "python"
_INSTRUCTION = (
    "To run Python, write it between ```python and ```; its output follows in an ```output block. Then go on."
)
_OUTPUT = "```output"
_CODE = re.compile(
    r"^```(?:python|py)[ \t]*\n(?P<code>.*?)(?P<close>^```(?:output)?|\Z)", re.DOTALL | re.MULTILINE
)
_FENCE_LINE = re.compile(r"^```[^\n`]*$", re.MULTILINE)


class CodeFenceConfig(BaseRendererConfig):
    """Options of :class:`CodeFenceRenderer`.

    Attributes:
        tools_in_prompt: say in one line of the system message how code is run.
    """

    name: Literal["code-fence"] = "code-fence"
    tools_in_prompt: bool = True
    _internal_fields: ClassVar[frozenset[str]] = frozenset({"tools_in_prompt"})


class CodeFenceRenderer:
    """ChatML prompts around assistant turns in which code and its output alternate.

    The one tool is ``python``, with the argument ``code``. Generation must stop at
    :attr:`stop_strings` besides the stop tokens, and the engine must return the tokens of the stop
    string too: they were sampled, and whatever else the last of them spells is kept.
    """

    config_class = CodeFenceConfig
    is_prefix_stable = True
    # A closing fence is alone on its line; an opening one of Python is not. The second string is
    # for a model that goes on to invent the output.
    stop_strings = ("\n```\n", _OUTPUT)
    call_errors: ClassVar[dict[str, str]] = {
        "unclosed_block": "the code block is cut off: the line ``` that closes it is missing",
        "malformed_structure": "a fence opens a block that is not code: write ```python to run code",
    }

    def __init__(self, tokenizer: Any, config: CodeFenceConfig | None = None) -> None:
        self._tokenizer = tokenizer
        self.config = config or CodeFenceConfig()
        self._start = token_id(tokenizer, IM_START)
        self._end = token_id(tokenizer, IM_END)
        self._stops = stop_tokens(tokenizer, self._end)

    def get_stop_token_ids(self) -> list[int]:
        return list(self._stops)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[ToolSchema] | None = None,
        add_generation_prompt: bool = False,
    ) -> Any:
        _check_tools(tools)
        stream = Stream(self._encode)
        hint = _INSTRUCTION if tools and self.config.tools_in_prompt else ""
        if hint and messages[0]["role"] not in ("system", "developer"):
            self._turn(stream, "system", hint, owner=-1)
        is_open = False
        for index, message in enumerate(messages):
            suffix = hint if index == 0 else ""
            is_open = self._add(stream, message, index, is_open=is_open, suffix=suffix)
        if add_generation_prompt and not is_open:
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
        tools: Sequence[ToolSchema] | None = None,
    ) -> Any:
        """The sampled stream with outputs appended to its last turn, or new messages after it."""
        if not new_messages or any(message["role"] == "assistant" for message in new_messages):
            return None
        _check_tools(tools)
        stream = Stream(self._encode, [*previous_prompt_ids, *previous_completion_ids])
        body, stopped = until_stop(previous_completion_ids, self._stops)
        messages = list(enumerate(new_messages))
        if stopped:
            stream.add("\n")
        elif new_messages[0]["role"] == "tool":
            index, first = messages.pop(0)
            stream.add(_output(text_of(first), after=self._decode(body)), owner=index)
        is_open = not stopped
        for index, message in messages:
            is_open = self._add(stream, message, index, is_open=is_open)
        if not is_open:
            stream.add(self._start, "assistant\n")
        return stream.rendered(new_messages)

    def parse_response(
        self,
        token_ids: Sequence[int],
        *,
        tools: Sequence[ToolSchema] | None = None,  # noqa: ARG002 - part of the protocol
        prompt_ids: Sequence[int] | None = None,  # noqa: ARG002 - a completion stands on its own
    ) -> Any:
        ids, stopped = until_stop(token_ids, self._stops)
        text = self._decode(ids)
        calls = [_parse_call(match) for match in _CODE.finditer(text)]
        content = _CODE.sub("", text).removesuffix("\n").removesuffix(_OUTPUT)
        if not calls and not stopped and len(_FENCE_LINE.findall(text)) % 2:
            # Generation stopped at the fence that *opens* a block of something else.
            calls.append(ParsedToolCall(raw=text, status=ToolCallParseStatus.MALFORMED_STRUCTURE))
        return ParsedResponse(content=content.strip(), tool_calls=calls)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def _turn(self, stream: Stream, role: str, text: str, *, owner: int) -> None:
        stream.add(self._start, f"{role}\n{text}", self._end, "\n", owner=owner)

    def _add(self, stream: Stream, message: Message, index: int, *, is_open: bool, suffix: str = "") -> bool:
        """Appends one message; ``is_open`` and the result: does an assistant turn wait to go on."""
        role, text = message["role"], text_of(message)
        if role == "tool" and is_open:
            stream.add(_output(text, after="\n"), owner=index)
            return True
        if role == "assistant":
            return self._add_assistant(stream, message, index, is_open=is_open)
        if is_open:
            stream.add(self._end, "\n")
        if role == "tool":
            # The model ended its turn behind the code, so the output has to open the next one.
            self._turn(stream, "user", _output(text, after="\n").removesuffix("\n"), owner=index)
        else:
            text = "\n\n".join(part for part in (text, suffix if role != "user" else "") if part)
            self._turn(stream, "system" if role == "developer" else role, text, owner=index)
        return False

    def _add_assistant(self, stream: Stream, message: Message, index: int, *, is_open: bool) -> bool:
        if not is_open:
            stream.add(self._start, "assistant\n", owner=index)
        text = text_of(message)
        calls = message.get("tool_calls") or ()
        for call in calls:
            function = call["function"]
            if function["name"] != TOOL:
                raise ValueError(f"a code fence can only call {TOOL!r}, not {function['name']!r}")
            text += "\n" if text and not text.endswith("\n") else ""
            text += f"```{TOOL}\n{function['arguments']['code']}\n```\n"
        stream.add(text, owner=index, sampled=True)
        if not calls:
            stream.add(self._end, owner=index, sampled=True)
            stream.add("\n", owner=index)
        return bool(calls)


def _output(text: str, *, after: str) -> str:
    """The output block, with what is missing between it and the sampled text ``after``."""
    if after.endswith((_OUTPUT, _OUTPUT + "\n")):
        opening = "" if after.endswith("\n") else "\n"
    else:
        opening = f"{_OUTPUT}\n" if after.endswith("\n") else f"\n{_OUTPUT}\n"
        code = next((match for match in _CODE.finditer(after) if not match["close"]), None)
        if code is not None:
            opening = opening.replace(_OUTPUT, f"```\n{_OUTPUT}")
    return f"{opening}{text}\n```\n"


def _parse_call(match: re.Match[str]) -> Any:
    code = match["code"].removesuffix("\n")
    if not match["close"]:
        return ParsedToolCall(raw=code, status=ToolCallParseStatus.UNCLOSED_BLOCK)
    return ParsedToolCall(raw=code, name=TOOL, arguments={"code": code})


def _check_tools(tools: Sequence[ToolSchema] | None) -> None:
    others = [name for tool in tools or () if (name := tool.get("function", tool)["name"]) != TOOL]
    if others:
        raise ValueError(f"a code fence can only call the tool {TOOL!r}, not {', '.join(others)}")

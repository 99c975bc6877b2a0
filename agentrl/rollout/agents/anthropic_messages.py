"""Anthropic's messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from agentrl.chat import Message
from agentrl.rollout.agents.exchange import Refused, Reply, Request, function, only, text_of


class AnthropicMessages:
    """``POST /messages``. Reasoning is shown where the request turns ``thinking`` on."""

    end_of_stream = b""

    def read(self, body: dict[str, Any]) -> Request:
        """The request in a body; see :class:`agentrl.rollout.agents.exchange.Dialect`."""
        none = (body.get("tool_choice") or {}).get("type") == "none"
        return Request(
            messages=[message for entry in body["messages"] for message in _messages(entry)],
            tools=[_tool(tool) for tool in (() if none else body.get("tools") or ())],
            system=text_of(body.get("system")) or None,
            max_tokens=body.get("max_tokens"),
            stop=tuple(body.get("stop_sequences") or ()),
            temperature=body.get("temperature"),
            top_p=body.get("top_p"),
        )

    def write(self, reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
        """A ``message``."""
        return {
            "id": f"msg_{reply.turn}",
            "type": "message",
            "role": "assistant",
            "model": body.get("model") or "policy",
            "content": _blocks(reply, body),
            "stop_reason": _reason(reply),
            "stop_sequence": reply.stop_string,
            "usage": {"input_tokens": reply.prompt_tokens, "output_tokens": reply.sampled_tokens},
        }

    def stream(self, reply: Reply, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The message as events, each block in one piece."""
        whole = self.write(reply, body)
        usage = {**whole["usage"], "output_tokens": 0}
        start = {**whole, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        yield {"type": "message_start", "message": start}
        for index, block in enumerate(whole["content"]):
            empty, delta = _in_pieces(block)
            yield {"type": "content_block_start", "index": index, "content_block": empty}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        ending = {name: whole[name] for name in ("stop_reason", "stop_sequence")}
        yield {"type": "message_delta", "delta": ending, "usage": whole["usage"]}
        yield {"type": "message_stop"}

    def error(self, problem: Refused) -> dict[str, Any]:
        """As Anthropic writes it."""
        kind = "invalid_request_error" if problem.status < 500 else "api_error"
        return {"type": "error", "error": {"type": kind, "message": f"{problem} ({problem.code})"}}


def _messages(entry: dict[str, Any]) -> list[Message]:
    """A message of Anthropic's is one of OpenAI's, or several where it holds tools' results."""
    blocks = entry["content"]
    if isinstance(blocks, str):
        return [{"role": entry["role"], "content": blocks}]
    results: list[Message] = [
        {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text_of(block.get("content"))}
        for block in blocks
        if block["type"] == "tool_result"
    ]
    thoughts = [block["thinking"] for block in blocks if block["type"] == "thinking"]
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": block["input"]},
        }
        for block in blocks
        if block["type"] == "tool_use"
    ]
    apart = ("tool_result", "tool_use", "thinking", "redacted_thinking")
    rest = [block for block in blocks if block["type"] not in apart]
    message: Message = {"role": entry["role"], "content": text_of(rest)}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [*results, message] if rest or calls or thoughts or not results else results


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    only(tool.get("type"), (None, "custom"), "tools[].type")
    return function(tool["name"], tool.get("description"), tool["input_schema"])


def _blocks(reply: Reply, body: dict[str, Any]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if reply.reasoning and (body.get("thinking") or {}).get("type", "disabled") != "disabled":
        blocks.append({"type": "thinking", "thinking": reply.reasoning, "signature": ""})
    if reply.text:
        blocks.append({"type": "text", "text": reply.text})
    for call in reply.calls:
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments})
    return blocks


def _in_pieces(block: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The block as it starts, and the delta that completes it."""
    if block["type"] == "tool_use":
        pieces = json.dumps(block["input"], ensure_ascii=False)
        return {**block, "input": {}}, {"type": "input_json_delta", "partial_json": pieces}
    field = block["type"]
    return {**block, field: ""}, {"type": f"{field}_delta", field: block[field]}


def _reason(reply: Reply) -> str:
    if reply.calls:
        return "tool_use"
    if reply.cut_off:
        return "max_tokens"
    return "end_turn" if reply.stop_string is None else "stop_sequence"

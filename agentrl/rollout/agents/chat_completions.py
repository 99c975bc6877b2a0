"""OpenAI's chat completions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from agentrl.chat import Message
from agentrl.rollout.agents.exchange import Refused, Reply, Request, function, only, openai_error, text_of


class ChatCompletions:
    """``POST /chat/completions``."""

    end_of_stream = b"data: [DONE]\n\n"

    def read(self, body: dict[str, Any]) -> Request:
        """The request in a body; see :class:`agentrl.rollout.agents.exchange.Dialect`."""
        only(body.get("n"), (None, 1), "n")
        only((body.get("response_format") or {}).get("type"), (None, "text"), "response_format")
        tools = [] if body.get("tool_choice") == "none" else body.get("tools") or []
        stop = body.get("stop") or ()
        return Request(
            messages=[_message(message) for message in body["messages"]],
            tools=[_tool(tool) for tool in tools],
            max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            temperature=body.get("temperature"),
            top_p=body.get("top_p"),
        )

    def write(self, reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
        """A ``chat.completion``."""
        choice = {"index": 0, "message": _written(reply), "finish_reason": _reason(reply), "logprobs": None}
        return {**_head(reply, body, "chat.completion"), "choices": [choice], "usage": _usage(reply)}

    def stream(self, reply: Reply, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The ``chat.completion.chunk`` objects: the turn, why it ended, and its usage if that is wanted."""
        head = _head(reply, body, "chat.completion.chunk")
        message = _written(reply)
        for index, call in enumerate(message.get("tool_calls", ())):
            call["index"] = index
        for delta, reason in ((message, None), ({}, _reason(reply))):
            choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
            yield {**head, "choices": [choice]}
        if (body.get("stream_options") or {}).get("include_usage"):
            yield {**head, "choices": [], "usage": _usage(reply)}

    def error(self, problem: Refused) -> dict[str, Any]:
        """As OpenAI writes it."""
        return openai_error(problem)


def _message(message: dict[str, Any]) -> Message:
    kept = {
        name: message[name]
        for name in ("role", "reasoning_content", "tool_calls", "tool_call_id", "name")
        if message.get(name) is not None
    }
    return {**kept, "content": text_of(message.get("content"))}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    only(tool["type"], ("function",), "tools[].type")
    return function(
        tool["function"]["name"], tool["function"].get("description"), tool["function"].get("parameters")
    )


def _written(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    if reply.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for call in reply.calls
        ]
    return message


def _reason(reply: Reply) -> str:
    if reply.calls:
        return "tool_calls"
    return "length" if reply.cut_off else "stop"


def _head(reply: Reply, body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{reply.turn}",
        "object": kind,
        "created": int(time.time()),
        "model": body.get("model") or "policy",
    }


def _usage(reply: Reply) -> dict[str, int]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.sampled_tokens,
        "total_tokens": reply.prompt_tokens + reply.sampled_tokens,
    }

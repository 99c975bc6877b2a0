"""OpenAI's responses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from agentrl.chat import Message
from agentrl.rollout.agents.exchange import Refused, Reply, Request, function, only, openai_error, text_of

KINDS = ("input_text", "output_text", "text")


class Responses:
    """``POST /responses``. A response can be continued by its id for as long as the episode lasts."""

    end_of_stream = b""

    def read(self, body: dict[str, Any]) -> Request:
        """The request in a body; see :class:`agentrl.rollout.agents.exchange.Dialect`."""
        wanted = (body.get("text") or {}).get("format") or {}
        only(wanted.get("type"), (None, "text"), "text.format")
        given = body.get("input") or []
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else _messages(given)
        tools = [] if body.get("tool_choice") == "none" else body.get("tools") or []
        return Request(
            messages=messages,
            tools=[_tool(tool) for tool in tools],
            system=body.get("instructions") or None,
            after=_turn(body.get("previous_response_id")),
            max_tokens=body.get("max_output_tokens"),
            temperature=body.get("temperature"),
            top_p=body.get("top_p"),
        )

    def write(self, reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
        """A ``response``."""
        return self._response(reply, body, "incomplete" if _cut_off(reply) else "completed", _items(reply))

    def stream(self, reply: Reply, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The response as numbered events, each item in one piece."""
        for number, event in enumerate(self._events(reply, body)):
            yield {**event, "sequence_number": number}

    def error(self, problem: Refused) -> dict[str, Any]:
        """As OpenAI writes it."""
        return openai_error(problem)

    def _events(self, reply: Reply, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        begun = self._response(reply, body, "in_progress", [])
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        for index, item in enumerate(_items(reply)):
            place = {"output_index": index, "item_id": item["id"]}
            yield {"type": "response.output_item.added", "output_index": index, "item": _empty(item)}
            yield from (
                _message_events(item, place) if item["type"] == "message" else _call_events(item, place)
            )
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
        whole = self.write(reply, body)
        yield {"type": f"response.{whole['status']}", "response": whole}

    def _response(
        self, reply: Reply, body: dict[str, Any], status: str, output: list[dict[str, Any]]
    ) -> dict[str, Any]:
        return {
            "id": f"resp_{reply.turn}",
            "object": "response",
            "created_at": int(time.time()),
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.get("instructions"),
            "metadata": body.get("metadata") or {},
            "model": body.get("model") or "policy",
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": body.get("previous_response_id"),
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": body.get("tools") or [],
            "usage": {
                "input_tokens": reply.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": reply.sampled_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": reply.prompt_tokens + reply.sampled_tokens,
            },
        }


def _turn(response: str | None) -> int | None:
    if response is None:
        return None
    if not response.removeprefix("resp_").isdecimal():
        raise Refused(f"There is no response {response!r} in this episode.", status=404, code="not_found")
    return int(response.removeprefix("resp_"))


def _messages(items: list[dict[str, Any]]) -> list[Message]:
    """Items as messages: what the model gave in one turn, spread over several items, is one message."""
    messages: list[Message] = []
    thought: str | None = None
    for item in items:
        kind = item.get("type", "message")
        if kind == "message":
            messages.append({"role": item["role"], "content": text_of(item["content"], KINDS)})
        elif kind == "function_call":
            if not messages or messages[-1]["role"] != "assistant" or thought is not None:
                messages.append({"role": "assistant", "content": ""})
            called = {"name": item["name"], "arguments": item["arguments"]}
            calls = messages[-1].setdefault("tool_calls", [])
            calls.append({"id": item["call_id"], "type": "function", "function": called})
        elif kind == "function_call_output":
            text = text_of(item["output"], KINDS)
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": text})
        elif kind == "reasoning":
            parts = item.get("content") or item.get("summary") or []
            thought = "\n".join(part["text"] for part in parts)
            continue
        else:
            raise Refused(f"An input item of type {kind!r} cannot be shown to this model.")
        if thought is not None and messages[-1]["role"] == "assistant":
            messages[-1]["reasoning_content"], thought = thought, None
    return messages


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    only(tool["type"], ("function",), "tools[].type")
    return function(tool["name"], tool.get("description"), tool.get("parameters"))


def _cut_off(reply: Reply) -> bool:
    return reply.cut_off and not reply.calls


def _items(reply: Reply) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if reply.reasoning:
        items.append({
            "type": "reasoning", "id": f"rs_{reply.turn}", "status": "completed", "summary": [],
            "content": [{"type": "reasoning_text", "text": reply.reasoning}],
        })  # fmt: skip
    if reply.text or not reply.calls:
        items.append({
            "type": "message", "id": f"msg_{reply.turn}", "role": "assistant",
            "status": "incomplete" if _cut_off(reply) else "completed",
            "content": [{"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}],
        })  # fmt: skip
    for index, call in enumerate(reply.calls):
        items.append({
            "type": "function_call", "id": f"fc_{reply.turn}_{index}", "call_id": call.id, "name": call.name,
            "arguments": json.dumps(call.arguments, ensure_ascii=False), "status": "completed",
        })  # fmt: skip
    return items


def _empty(item: dict[str, Any]) -> dict[str, Any]:
    """The item as it is announced, before its content."""
    bare: dict[str, Any] = {"arguments": ""} if item["type"] == "function_call" else {"content": []}
    return {**item, **bare, "status": "in_progress"}


def _message_events(item: dict[str, Any], place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    [part] = item["content"]
    place = {**place, "content_index": 0}
    text = {"text": part["text"], "logprobs": []}
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
    yield {"type": "response.output_text.delta", **place, "delta": part["text"], "logprobs": []}
    yield {"type": "response.output_text.done", **place, **text}
    yield {"type": "response.content_part.done", **place, "part": part}


def _call_events(item: dict[str, Any], place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Reasoning has no events of its own between its beginning and its end."""
    if item["type"] != "function_call":
        return
    arguments = item["arguments"]
    yield {"type": "response.function_call_arguments.delta", **place, "delta": arguments}
    yield {
        "type": "response.function_call_arguments.done",
        **place,
        "arguments": arguments,
        "name": item["name"],
    }

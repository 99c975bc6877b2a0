"""What a person writes at a prompt, as a message of the assistant: tool calls, or an answer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl.trajectory import Message, call, say

SAY = "say "
"""Before an answer that would otherwise be read as a call."""


class Unclear(Exception):
    """A line cannot be read; the message tells the person who wrote it how to write it."""


def read_turn(line: str, tools: Sequence[Mapping[str, Any]]) -> Message:
    """A turn: calls as JSON (``{"name": …, "arguments": {…}}``, or a list of those), one call as
    ``TOOL key=value …``, or else an answer.

    Args:
        line: what was written; it may have several lines.
        tools: the schemas of the tools.

    Raises:
        Unclear: it begins as a call and does not go on as one.
    """
    line = line.strip()
    if line.startswith(SAY):
        return say(line.removeprefix(SAY))
    parameters = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    if line.startswith(("{", "[")):
        try:
            return _from_json(json.loads(line))
        except (ValueError, RecursionError) as problem:
            raise Unclear(f"This is not JSON ({problem}). To answer with it, put '{SAY}' before it.") from None
    name, _, rest = line.partition(" ")
    if name not in parameters:
        return say(line)
    try:
        return call(name, **read_arguments(split(rest), parameters[name]))
    except Unclear as problem:
        raise Unclear(f"{problem} To answer with these words, put '{SAY}' before them.") from None


def split(text: str) -> list[str]:
    """The words of a line, as a shell would split it.

    Raises:
        Unclear: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as problem:
        raise Unclear(f"{text!r} cannot be split into words: {problem}.") from None


def read_arguments(words: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that ``key=value`` words, or a JSON object alone, give.

    A value is taken as it stands where the tool takes text; elsewhere it is read as JSON, and taken as it
    stands if it is none. Whether arguments fit is for the tool to say.

    Args:
        words: as a shell has split them.
        parameters: the tool's JSON schema.

    Raises:
        Unclear: a word is no ``key=value``.
    """
    if len(words) == 1 and words[0].startswith("{"):
        return read_object(words[0])
    arguments: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            known = ", ".join(parameters.get("properties", {})) or "none"
            raise Unclear(f"{word!r} is no key=value; the parameters are: {known}.")
        arguments[key] = _value(value, parameters.get("properties", {}).get(key, {}))
    return arguments


def read_object(text: str) -> dict[str, Any]:
    """Arguments from a JSON object.

    Raises:
        Unclear: it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise Unclear(f"{text!r} is not JSON: {problem}.") from None
    if not isinstance(found, dict):
        raise Unclear(f"{text!r} is no JSON object; write {{\"key\": value}}.")
    return found


def takes_text(parameter: Mapping[str, Any]) -> bool:
    """Whether a parameter takes text, perhaps beside ``null``, and nothing else."""
    kinds = [kind.get("type") for kind in parameter.get("anyOf", [parameter])]
    return "string" in kinds and set(kinds) <= {"string", "null"}


def _value(text: str, parameter: Mapping[str, Any]) -> Any:
    if takes_text(parameter):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _from_json(data: Any) -> Message:
    made = [
        call(each["name"], **each.get("arguments", {}))
        for each in (data if isinstance(data, list) else [data])
        if isinstance(each, dict)
        and isinstance(each.get("name"), str)
        and isinstance(each.get("arguments", {}), dict)
    ]
    if not made or (isinstance(data, list) and len(made) < len(data)):
        raise ValueError('a call is {"name": TOOL, "arguments": {…}}')
    return {**made[0], "tool_calls": [each for message in made for each in message["tool_calls"]]}

"""What a person writes at a prompt, as a message of the assistant: tool calls, or an answer."""

from __future__ import annotations

import json
import re
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
            raise Unclear(
                f"This is not JSON ({problem}). To answer with it, put '{SAY}' before it."
            ) from None
    name = line.split(maxsplit=1)[0] if line else ""
    if name not in parameters:
        return say(line)
    try:
        return call(name, **read_line(line.removeprefix(name), parameters[name]))
    except Unclear as problem:
        raise Unclear(f"{problem} To answer with these words, put '{SAY}' before them.") from None


def read_line(text: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call as a person types them: ``key=value key=value``, or a JSON object.

    A value goes on, blanks, quotes and line breaks included, until the name of another parameter
    and ``=``. Quotes around all of it are left out.

    Args:
        text: what was typed.
        parameters: the tool's JSON schema.

    Raises:
        Unclear: it does not begin with a parameter and ``=``.
    """
    text = text.strip()
    if text.startswith("{"):
        return read_object(text)
    names = list(parameters.get("properties", {}))
    starts: dict[str, re.Match[str]] = {}
    for match in re.finditer(rf"(?<!\S)({'|'.join(map(re.escape, names))})=", text) if names else ():
        starts.setdefault(match[1], match)
    found = list(starts.values())
    if text and (not found or found[0].start() > 0):
        raise Unclear(f"{text[:40]!r} is no key=value; the parameters are: {', '.join(names) or 'none'}.")
    ends = [*(match.start() for match in found[1:]), len(text)]
    return {
        match[1]: _value(_unquoted(text[match.end() : end].strip()), parameters["properties"][match[1]])
        for match, end in zip(found, ends, strict=False)
    }


def read_words(words: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that ``key=value`` words give, as a shell has split them.

    A value is taken as it stands where the tool takes text; elsewhere it is read as JSON, and taken as it
    stands if it is none. Whether arguments fit is for the tool to say.

    Raises:
        Unclear: a word is no ``key=value``.
    """
    properties = parameters.get("properties", {})
    arguments: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            known = ", ".join(properties) or "none"
            raise Unclear(f"{word!r} is no key=value; the parameters are: {known}.")
        arguments[key] = _value(value, properties.get(key, {}))
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
        raise Unclear(f'{text!r} is no JSON object; write {{"key": value}}.')
    return found


def takes_text(parameter: Mapping[str, Any]) -> bool:
    """Whether a parameter takes text, perhaps beside ``null``, and nothing else."""
    kinds: set[str] = set()
    for option in parameter.get("anyOf", [parameter]):
        kind = option.get("type", "any")
        kinds.update([kind] if isinstance(kind, str) else kind)
    return "string" in kinds and kinds <= {"string", "null"}


def _value(text: str, parameter: Mapping[str, Any]) -> Any:
    if takes_text(parameter):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _unquoted(text: str) -> str:
    quote = text[:1]
    whole = len(text) > 1 and quote in ("'", '"') and text.endswith(quote) and text.count(quote) == 2
    return text[1:-1] if whole else text


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

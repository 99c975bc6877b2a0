"""From a renderer's record of a call attempt to a :class:`ParsedCall` with a readable error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentrl.chat.types import ParsedCall

# Keyed by the values of renderers' ToolCallParseStatus; the ones left out are not errors of form.
_ERRORS = {
    "invalid_json": "the arguments are not valid JSON",
    "unclosed_block": "the call is cut off: the marker that ends it is missing",
    "missing_name": "the call does not say which tool to use: its name is missing",
    "malformed_structure": "the call is not written in the form that was asked for",
}


def parsed_call(attempt: Any, fallback_id: str, errors: Mapping[str, str]) -> ParsedCall:
    """``attempt`` (a ``ParsedToolCall`` of renderers) in our terms.

    Args:
        fallback_id: the id, for formats whose calls carry none.
        errors: a renderer's own sentences by status, before the general ones.
    """
    arguments, error = _arguments(attempt.arguments)
    status = str(attempt.status)
    if status == "invalid_json":
        error = _json_error(attempt.raw) or error or _ERRORS[status]
    elif status in _ERRORS:
        error = errors.get(status, _ERRORS[status])
    return ParsedCall(
        name=attempt.name or None,
        arguments=arguments if error is None else None,
        raw=attempt.raw,
        error=error,
        id=attempt.id or fallback_id,
    )


def _arguments(value: Any) -> tuple[dict[str, Any] | None, str | None]:
    """The arguments as a dictionary, or what is wrong with them."""
    if isinstance(value, str):
        # Some models write the arguments as JSON inside a JSON string.
        try:
            value = json.loads(value) if value.strip() else {}
        except (ValueError, RecursionError):
            return None, _json_error(value)
    if value is None:
        return {}, None
    if not isinstance(value, dict):
        return None, f"the arguments must be a JSON object with the tool's parameters, not {_kind(value)}"
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return None, "the arguments hold half of a surrogate pair, which is not text"
    except ValueError:
        return None, "the arguments hold NaN or Infinity, which are not valid JSON"
    except RecursionError:
        return None, "the arguments are nested too deeply"
    return value, None


def _json_error(text: str) -> str | None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"{_ERRORS['invalid_json']}: {error.msg} at character {error.pos}"
    except ValueError:
        return f"{_ERRORS['invalid_json']}: a number in them is too long"
    except RecursionError:
        return f"{_ERRORS['invalid_json']}: they are nested too deeply"
    return None


def _kind(value: Any) -> str:
    names = {list: "a list", bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value), "that")

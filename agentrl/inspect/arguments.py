"""Arguments that fit a tool's schema, made up at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from agentrl.inspect.written import takes_text

DEEPEST = 4
MOST_ITEMS = 3

Schema = Mapping[str, Any]


def random_arguments(function: Schema, rng: random.Random, text: Callable[[], str]) -> dict[str, Any]:
    """Arguments for a tool: all that are required, and some that are not.

    Args:
        function: the tool as its schema describes it: ``name``, ``parameters``.
        rng: decides.
        text: makes up what text parameters get.
    """
    return _object(function["parameters"], function["parameters"].get("$defs", {}), rng, text, 0)


def text_parameters(function: Schema) -> list[str]:
    """The names of the parameters that take any text."""
    properties: Mapping[str, Schema] = function["parameters"].get("properties", {})
    return [name for name, schema in properties.items() if takes_text(schema) and "enum" not in schema]


def _object(
    schema: Schema, defs: Schema, rng: random.Random, text: Callable[[], str], depth: int
) -> dict[str, Any]:
    required = schema.get("required", ())
    return {
        name: _value(parameter, defs, rng, text, depth + 1)
        for name, parameter in schema.get("properties", {}).items()
        if name in required or rng.random() < 0.3
    }


def _value(schema: Any, defs: Schema, rng: random.Random, text: Callable[[], str], depth: int) -> Any:
    if not isinstance(schema, Mapping):  # ``true``: anything fits
        return text()
    if "$ref" in schema:
        schema = defs.get(schema["$ref"].rpartition("/")[2], {})
    if "anyOf" in schema:
        return _value(rng.choice(schema["anyOf"]), defs, rng, text, depth)
    if "enum" in schema or "const" in schema:
        return rng.choice(schema.get("enum") or [schema["const"]])
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = rng.choice(kind)
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", -10), schema.get("maximum", 100)
        return rng.randint(int(low), max(int(low), int(high)))
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "null" or depth > DEEPEST:
        return None
    if kind == "array":
        count = rng.randint(max(1, schema.get("minItems", 1)), max(MOST_ITEMS, schema.get("minItems", 1)))
        return [_value(schema.get("items", {}), defs, rng, text, depth + 1) for _ in range(count)]
    if kind == "object":
        return _object(schema, defs, rng, text, depth)
    return text()

"""Arguments that are made up fit the tools they are made for."""

from __future__ import annotations

import random
from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from agentrl import tool
from agentrl.inspect.arguments import random_arguments, text_parameters


class Point(BaseModel):
    x: int = Field(ge=3, le=5)
    label: str | None = None
    next: Point | None = None


@tool
def everything(
    text: str,
    number: float,
    flag: bool,
    choice: Literal["a", "b"],
    point: Point,
    points: list[Point],
    table: dict[str, Any],
    either: int | list[str],
    note: str | None = None,
    pair: tuple[int, int] = (1, 2),
) -> str:
    """Takes everything."""
    return ""


@given(st.integers())
def test_they_fit(seed: int) -> None:
    made = random_arguments(everything.schema["function"], random.Random(seed), lambda: "word")
    made.pop("pair", None)  # of fixed length, which JSON schema says in a way of its own
    checked = everything.check(made)
    assert checked["text"] == "word" and checked["choice"] in ("a", "b")
    again = random_arguments(everything.schema["function"], random.Random(seed), lambda: "word")
    again.pop("pair", None)
    assert again == made


def test_schemas_of_other_peoples_tools() -> None:
    parameters = {
        "type": "object",
        "properties": {
            "a": {"type": ["string", "null"]},
            "b": {"type": "array", "items": True},
            "c": {},
            "d": {"$ref": "#/$defs/Missing"},
        },
        "required": ["a", "b", "c", "d"],
    }
    function = {"name": "f", "parameters": parameters}
    made = random_arguments(function, random.Random(0), lambda: "word")
    assert set(made) == {"a", "b", "c", "d"} and set(made["b"]) == {"word"}
    assert text_parameters(function) == ["a"]
    assert text_parameters(everything.schema["function"]) == ["text", "note"]

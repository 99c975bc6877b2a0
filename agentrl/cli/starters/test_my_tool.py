"""Tests of my_tool; run them with pytest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentrl import ToolContext, ToolError
from agentrl.errors import InvalidArguments
from agentrl.registry import find_tool

FILE = str(Path(__file__).with_name("my_tool.py"))


def call(**arguments: Any) -> Any:
    """What the tool answers, its arguments checked as an episode checks them."""
    return asyncio.run(find_tool(FILE).spawn(ToolContext()).invoke(arguments))


def test_the_model_is_told_what_it_does() -> None:
    told = find_tool(FILE).schema["function"]
    assert told["name"] == "my_tool" and told["description"]
    assert all(parameter["description"] for parameter in told["parameters"]["properties"].values())


def test_it_answers() -> None:
    assert call(amount="3", unit="miles") == "4828.03"


def test_it_says_what_would_have_worked() -> None:
    with pytest.raises(ToolError, match="feet and miles, not 'ells'"):
        call(amount=3, unit="ells")
    with pytest.raises(InvalidArguments, match="unit is required"):
        call(amount=3)

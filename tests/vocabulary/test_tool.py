"""Tools: schemas from signatures, arguments checked against them, and calls that run where they should."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from agentrl import (
    DefinitionError,
    InfrastructureError,
    SandboxUnavailable,
    Task,
    Tool,
    ToolContext,
    ToolError,
    tool,
)
from agentrl.errors import InvalidArguments
from agentrl.tool import BlockingCalls


class Point(BaseModel):
    x: int
    y: int = 0


@dataclass
class Box:
    low: Point
    high: Point


@tool
def everything(
    city: str,
    count: int,
    ratio: float = 0.5,
    unit: Literal["km", "mi"] = "km",
    note: str | None = None,
    names: list[str] = [],  # noqa: B006 - what a default like this becomes is tested
    level: Annotated[int, Field(ge=1, le=5)] = 3,
    exact: bool = False,
) -> str:
    """Look something up.

    It goes on
    here.

    Args:
        city: where to look,
            in words.
        count: how many.
    """
    return f"{city} {count} {ratio} {unit} {note} {names} {level} {exact}"


def parameters(made: Tool) -> dict[str, Any]:
    schema: dict[str, Any] = made.schema["function"]["parameters"]
    return schema


# ---- schemas


def test_a_schema_says_what_signature_and_docstring_say() -> None:
    schema = everything.schema
    assert schema["type"] == "function"
    assert schema["function"]["name"] == "everything"
    assert schema["function"]["description"] == "Look something up.\nIt goes on here."
    assert parameters(everything) == {
        "type": "object",
        "required": ["city", "count"],
        "properties": {
            "city": {"type": "string", "description": "where to look,\nin words."},
            "count": {"type": "integer", "description": "how many."},
            "ratio": {"type": "number", "default": 0.5},
            "unit": {"type": "string", "enum": ["km", "mi"], "default": "km"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "names": {"type": "array", "items": {"type": "string"}, "default": []},
            "level": {"type": "integer", "minimum": 1, "maximum": 5, "default": 3},
            "exact": {"type": "boolean", "default": False},
        },
    }


def test_nested_types_are_defined_in_the_schema_and_arrive_as_their_classes() -> None:
    @tool
    def draw(box: Box, points: list[Point]) -> str:
        """Draw."""
        return f"{type(box).__name__} {box.high.x} {[point.y for point in points]}"

    schema = parameters(draw)
    assert schema["properties"]["box"]["$ref"] == "#/$defs/Box"
    assert schema["$defs"]["Point"]["required"] == ["x"]
    checked = draw.check({"box": {"low": {"x": 1}, "high": {"x": 2}}, "points": [{"x": 3, "y": 4}]})
    assert checked["box"] == Box(Point(x=1), Point(x=2))
    assert checked["points"] == [Point(x=3, y=4)]
    with pytest.raises(InvalidArguments, match=r"box\.low\.x is required"):
        draw.check({"box": {"low": {}, "high": {"x": 2}}, "points": []})


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    @tool
    def wait() -> str:
        """Wait."""
        return ""

    assert parameters(wait) == {"type": "object", "properties": {}}
    with pytest.raises(InvalidArguments, match=r"speed is not a parameter\. Its parameters: none\."):
        wait.check({"speed": 1})


class ReadFile(Tool):
    """Read a file."""

    async def call(self, path: str) -> str:
        return path


class Documented(Tool):
    """Not this."""

    name = "documented_well"

    async def call(self, path: str) -> str:
        """But this."""
        return path


class Undocumented(Tool):
    async def call(self, path: str) -> str:
        return path


class Further(Documented):
    async def call(self, path: str, line: int = 0) -> str:
        return path


def test_a_tool_is_not_described_by_the_base_of_all_tools() -> None:
    assert Undocumented().description == ""
    assert Further().description == "But this."


def test_a_class_is_named_in_snake_case_and_described_by_its_method_or_itself() -> None:
    assert (ReadFile().name, ReadFile().description) == ("read_file", "Read a file.")
    assert (Documented().name, Documented().description) == ("documented_well", "But this.")
    assert list(parameters(ReadFile())["properties"]) == ["path"]


def untyped(x) -> str:
    return str(x)


def many(*paths: str) -> str:
    return ""


def options(**rest: str) -> str:
    return ""


def positional(path: str, /) -> str:
    return path


def unknown_name(path: Missing) -> str:  # type: ignore[name-defined]  # noqa: F821
    return ""


def unknown_member(path: asyncio.Missing) -> str:  # type: ignore[name-defined]
    return ""


def no_annotation(path: str) -> str:
    return ""


no_annotation.__annotations__["path"] = "list["


def unshowable(lock: threading.Event) -> str:
    return ""


def private(_path: str) -> str:
    return ""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (untyped, "Parameter 'x' of tool untyped has no type"),
        (many, r"Parameter \*paths: .* has no JSON form"),
        (options, r"Parameter \*\*rest: .* has no JSON form"),
        (positional, "has no JSON form"),
        (unknown_name, "annotations of tool unknown_name cannot be read: .*Missing"),
        (unknown_member, "annotations of tool unknown_member cannot be read: .*Missing"),
        (no_annotation, "annotations of tool no_annotation cannot be read"),
        (unshowable, "types of tool unshowable have no JSON schema"),
        (private, "tool private .*underscore"),
    ],
)
def test_what_cannot_be_shown_to_a_model_is_not_well_defined(function: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        _ = tool(function).schema


def test_a_tool_that_defines_no_call_is_named() -> None:
    class Empty(Tool):
        """Nothing."""

    with pytest.raises(DefinitionError, match=r"Tool Empty does not define call"):
        _ = Empty().schema


# ---- arguments


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": 1}, "Invalid arguments for everything: city is required."),
        ({"city": "a", "count": "many"}, "count: Input should be a valid integer.*'many'"),
        ({"city": "a", "count": 1, "level": 9}, "level: .*less than or equal to 5.*'9'"),
        ({"city": "a", "count": 1, "unit": "m"}, "unit: Input should be 'km' or 'mi'"),
        ({"city": "a", "count": 1, "names": ["b", 3]}, r"names\.1: "),
        ({"city": "a", "count": 1, "town": "b"}, "town is not a parameter"),
        ({"town": "b"}, "city is required; count is required; town is not a parameter"),
        ({}, "Its parameters: city, count, ratio, unit, note, names, level, exact."),
    ],
)
def test_wrong_arguments_are_told_which_and_why(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArguments, match=words):
        everything.check(given)


def test_a_long_wrong_value_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidArguments) as caught:
        everything.check({"city": "a", "count": "9" * 5000 + "x"})
    assert len(str(caught.value)) < 500


def test_arguments_are_converted_and_defaults_filled_in_anew() -> None:
    first = everything.check({"city": "a", "count": "12", "ratio": 1, "exact": "true"})
    assert first == {
        "city": "a", "count": 12, "ratio": 1.0, "unit": "km", "note": None, "names": [], "level": 3,
        "exact": True,
    }  # fmt: skip
    first["names"].append("kept?")
    assert everything.check({"city": "a", "count": 1})["names"] == []


async def test_arguments_that_do_not_fit_never_reach_the_function() -> None:
    reached: list[int] = []

    @tool
    def note(number: int) -> None:
        """Note."""
        reached.append(number)

    with pytest.raises(InvalidArguments):
        await note.spawn(ToolContext()).invoke({"number": "?"})
    await note.spawn(ToolContext()).invoke({"number": "3"})
    assert reached == [3]


# ---- calling


def test_a_function_stays_callable_as_it_was() -> None:
    assert everything("a", 1, unit="mi") == "a 1 0.5 mi None [] 3 False"


def test_settings_of_the_decorator() -> None:
    @tool(parallel=True, seconds=2.5)
    def quick() -> str:
        """Quick."""
        return ""

    assert (quick.parallel, quick.seconds, quick.name) == (True, 2.5, "quick")
    assert (everything.parallel, everything.seconds) == (False, None)


async def test_blocking_functions_run_beside_the_loop_and_async_ones_on_it() -> None:
    @tool
    def blocking() -> int:
        """Block."""
        return threading.get_ident()

    @tool
    async def awaiting() -> int:
        """Await."""
        return threading.get_ident()

    context = ToolContext()
    assert await blocking.spawn(context).invoke({}) != threading.get_ident()
    assert await awaiting.spawn(context).invoke({}) == threading.get_ident()


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(ToolError("no"), ToolError), (KeyError("k"), KeyError), (StopIteration(1), RuntimeError)],
)
async def test_what_a_blocking_function_raises_reaches_the_caller(
    raised: Exception, seen: type[Exception]
) -> None:
    @tool
    def fail() -> None:
        """Fail."""
        raise raised

    with pytest.raises(seen):
        await fail.spawn(ToolContext()).invoke({})


async def test_a_hung_call_can_be_given_up_and_keeps_its_thread_until_it_returns() -> None:
    calls, gate = BlockingCalls(limit=2), threading.Event()
    try:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(calls.run(gate.wait), 0.05)
        with pytest.raises(InfrastructureError, match="All 2 threads for blocking tools are busy"):
            await calls.run(int)
    finally:
        gate.set()
    deadline = time.monotonic() + 30
    while True:
        try:
            assert await calls.run(int) == 0
            return
        except InfrastructureError:
            assert time.monotonic() < deadline, "the threads were not given back"
            await asyncio.sleep(0.01)


async def test_a_function_that_raises_gives_its_thread_back() -> None:
    calls = BlockingCalls(limit=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await calls.run(lambda: 1 / 0)


# ---- episodes


class Counter(Tool):
    """Count."""

    def __init__(self, step: int = 1) -> None:
        self.step = step

    async def open(self) -> None:
        self.seen: list[int] = []

    async def call(self) -> list[int]:
        self.seen.append(len(self.seen) * self.step)
        return self.seen


async def test_every_episode_has_its_own_instance_with_the_options_of_the_first() -> None:
    prototype = Counter(step=2)
    one, two = (prototype.spawn(ToolContext(Task("?"), episode_id=name)) for name in ("a", "b"))
    for instance in (one, two):
        await instance.open()
    await one.invoke({})
    assert await one.invoke({}) == [0, 2]
    assert await two.invoke({}) == [0]
    assert (one.context.episode_id, two.context.episode_id) == ("a", "b")
    assert not hasattr(prototype, "seen") and not hasattr(prototype, "context")


async def test_a_context_opens_sessions_with_the_limits_asked_for_or_says_there_is_no_sandbox() -> None:
    asked: list[Any] = []

    async def open_session(limits: Any) -> Any:
        asked.append(limits)
        return "session"

    opened: Any = await ToolContext(open_session=open_session).sandbox(seconds=3)
    assert opened == "session"
    assert asked == [{"seconds": 3}]
    with pytest.raises(SandboxUnavailable):
        await ToolContext().sandbox()

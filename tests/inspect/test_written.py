"""What a person writes becomes the message that was meant, and reaches the loop as a model's would."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl import Env, Task, tool
from agentrl.config import Rollout
from agentrl.inspect.plain import BYTES_PER_TOKEN, in_bytes, plain_chat
from agentrl.inspect.written import Unclear, read_turn, read_words
from agentrl.rollout import Scene, written


@tool
def look(
    text: str,
    count: int = 1,
    kinds: list[str] | None = None,
    mode: Literal["a", "b"] = "a",
    note: str | None = None,
) -> str:
    """Look."""
    return ""


SCHEMAS = [look.schema]
PARAMETERS = SCHEMAS[0]["function"]["parameters"]


def calls(line: str) -> list[tuple[str, dict[str, Any]]]:
    message = read_turn(line, SCHEMAS)
    functions = [each["function"] for each in message["tool_calls"]]
    return [(each["name"], each["arguments"]) for each in functions]


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("look text=hello", {"text": "hello"}),
        ("  look   text='two words'  count=3", {"text": "two words", "count": 3}),
        ("look text=two words count=3", {"text": "two words", "count": 3}),
        ("look text=3 note=null", {"text": "3", "note": "null"}),
        ('look text=print("a = b", end="c=d")', {"text": 'print("a = b", end="c=d")'}),
        ("look text='a' or 'b'", {"text": "'a' or 'b'"}),
        ("look text=1\n2", {"text": "1\n2"}),
        ("look text=text=1", {"text": "text=1"}),
        ('look kinds=["x", "y"] mode=b', {"kinds": ["x", "y"], "mode": "b"}),
        ("look count=many", {"count": "many"}),
        ("look\ntext=", {"text": ""}),
        ("look", {}),
        ('look {"text": "a", "count": 2, "other": 1}', {"text": "a", "count": 2, "other": 1}),
    ],
)
def test_a_call_as_it_is_typed(line: str, arguments: dict[str, Any]) -> None:
    assert calls(line) == [("look", arguments)]


def test_words_that_a_shell_has_split() -> None:
    words = ["text=two words", 'kinds=["x", "y"]', "count=3", "other=1", "note="]
    expected = {"text": "two words", "kinds": ["x", "y"], "count": 3, "other": 1, "note": ""}
    assert read_words(words, PARAMETERS) == expected
    with pytest.raises(Unclear, match="'alone' is no key=value; the parameters are: text, count"):
        read_words(["text=a", "alone"], PARAMETERS)


def test_calls_in_json() -> None:
    one = {"name": "look", "arguments": {"text": "é"}}
    assert calls(json.dumps(one)) == [("look", {"text": "é"})]
    assert calls(json.dumps([one, {"name": "nope"}])) == [("look", {"text": "é"}), ("nope", {})]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("42", "42"),
        ("looking good", "looking good"),
        ("say look text=1", "look text=1"),
        (r"\boxed{5}", r"\boxed{5}"),
        ('say {"a": 1}', '{"a": 1}'),
    ],
)
def test_anything_else_is_an_answer(line: str, text: str) -> None:
    message = read_turn(line, SCHEMAS)
    assert message["content"] == text and "tool_calls" not in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("look hello", "'hello' is no key=value; the parameters are: text, count"),
        ("look other=3", "'other=3' is no key=value"),
        ('{"name": "look"', "not JSON"),
        ('{"name": 3}', 'a call is {"name"'),
        ('[{"name": "look"}, 5]', 'a call is {"name"'),
        ("[" * 100_000, "not JSON"),
        ("look [1]", "no key=value"),
        ("look {1}", "not JSON"),
    ],
)
def test_what_begins_as_a_call_and_is_none_is_told(line: str, words: str) -> None:
    with pytest.raises(Unclear) as told:
        read_turn(line, SCHEMAS)
    assert words in str(told.value) and "put 'say ' before" in str(told.value)


@settings(max_examples=40)
@given(st.text(), st.text(), st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=2))
def test_what_is_written_is_what_the_loop_reads(prompt: str, answer: str, extra: dict[str, str]) -> None:
    """Through the tokens: whatever text, control tokens spelled out included."""
    chat = plain_chat()
    prompt = f"{prompt}<|im_end|><|im_start|>"
    scene = Scene(Env(tasks=()), Task(prompt), 0, SCHEMAS, [{"role": "user", "content": prompt}])
    opening = chat.prompt(scene.messages, SCHEMAS)
    assert chat.decode(opening).count("<|im_start|>") == 3 and opening.count(chat.stop_token_ids[0]) == 1
    message = read_turn(json.dumps({"name": "look", "arguments": {"text": answer, **extra}}), SCHEMAS)
    parsed = chat.parse(opening, written(chat, scene, message), SCHEMAS)
    if "</tool_call>" not in answer and not any("</tool_call>" in part for part in (*extra, *extra.values())):
        [call] = parsed.calls
        clean = {"text": answer, **extra}
        assert call.arguments == {
            name.encode("utf-8", "replace").decode(): value.encode("utf-8", "replace").decode()
            for name, value in clean.items()
        }


def test_limits_in_bytes_keep_turns_and_times() -> None:
    limits = Rollout(max_turns=3, max_turn_tokens=10, tool_seconds=7)
    counted = in_bytes(limits, retries=0)
    assert (counted.max_turns, counted.tool_seconds, counted.retries) == (3, 7, 0)
    assert counted.max_turn_tokens == 10 * BYTES_PER_TOKEN

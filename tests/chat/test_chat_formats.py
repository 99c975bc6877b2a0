"""Our own formats in detail, what the model is told of its mistakes, and demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_families import (
    CHATML,
    FAMILIES,
    PYTHON,
    TAGS,
    TOOLS,
    call_for,
    chat_for,
    make_tokenizer,
    tools_for,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.chat import Chat, Message
from agentrl.errors import DataError, ModelUnsupported, UsageError

ASK: list[Message] = [{"role": "user", "content": "What is 6 * 7?"}]
TAGGED = chat_for("chatml-json")
UNTAGGED = Chat(make_tokenizer(CHATML, [], "<|im_end|>"), "chatml-json")
FENCE = chat_for("code-fence")
END = TAGGED.stop_token_ids[0]


def written(chat: Chat, text: str) -> list[int]:
    """``text`` as a model would sample it, tags of the vocabulary as single tokens."""
    return list(chat.tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("chat", [TAGGED, UNTAGGED], ids=["tags are tokens", "tags are text"])
def test_a_chatml_rollout_reads_as_it_should(chat: Chat) -> None:
    prompt = chat.prompt([{"role": "system", "content": "Be brief."}, *ASK])
    assert chat.decode(prompt) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 6 * 7?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    calls = '<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>' * 2
    completion = written(chat, f"Wait.{calls}<|im_end|>")
    turn = chat.parse(prompt, completion)
    assert (turn.content, [call.name for call in turn.calls]) == ("Wait.", ["a", "a"])
    extended = chat.extend(prompt, completion, chat.observation_messages(turn.calls, ["1", "2"]))
    assert extended is not None
    assert chat.decode(extended[len(prompt) + len(completion) :]) == (
        "\n<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tools_are_listed_in_the_system_message_unless_told_otherwise() -> None:
    assert '"name": "search"' in TAGGED.decode(TAGGED.prompt(ASK, TOOLS))
    silent = Chat(TAGGED.tokenizer, "chatml-json", options={"tools_in_prompt": False})
    assert silent.prompt(ASK, TOOLS) == silent.prompt(ASK)


def test_a_turn_that_was_cut_off_is_closed_by_context() -> None:
    prompt, completion = TAGGED.prompt(ASK), TAGGED.encode("The answer is")
    extended = TAGGED.extend(prompt, completion, [{"role": "user", "content": "Yes?"}])
    assert extended is not None
    assert TAGGED.decode(extended[len(prompt) :]).startswith(
        "The answer is<|im_end|>\n<|im_start|>user\nYes?"
    )


def test_a_stream_does_not_go_on_behind_a_stop_token_in_its_middle() -> None:
    assert TAGGED.extend(TAGGED.prompt(ASK), [END, *TAGGED.encode("more")], ASK) is None


MISTAKES = [
    (
        '{"name": "search", "arguments": {"query": "a" "b"}}',
        "not valid JSON: Expecting ',' delimiter at character 46",
    ),
    ('{"arguments": {}}', "its name is missing"),
    ('{"name": "search", "arguments": [1]}', "must be a JSON object with the tool's parameters, not a list"),
    ('{"name": "search", "arguments": "word"}', "not valid JSON: Expecting value"),
    ('{"name": "search", "arguments": {"limit": NaN}}', "NaN"),
    ('{"name": "search", "arguments": {"query": "\\ud800"}}', "surrogate"),
    ('["search"]', "not written in the form"),
    ("[" * 50_000, "nested too deeply"),
    ("1" * 5_000, "too long"),
    ("", "not valid JSON: Expecting value at character 0"),
]


@pytest.mark.parametrize("chat", [TAGGED, UNTAGGED, chat_for("qwen3")], ids=["tags", "text", "qwen3"])
@pytest.mark.parametrize(("body", "message"), MISTAKES, ids=[message[:24] for _, message in MISTAKES])
def test_a_malformed_call_says_what_is_wrong(chat: Chat, body: str, message: str) -> None:
    completion = written(chat, f"<tool_call>\n{body}\n</tool_call><|im_end|>")
    [call] = chat.parse(chat.prompt(ASK), completion).calls
    assert call.arguments is None
    assert call.error is not None
    # Qwen3's own parser gives up on the last few without saying why.
    assert message in call.error or chat.name == "qwen3"


@pytest.mark.parametrize("family", ["chatml-json", "qwen3", "glm-4.5", "kimi-k2", "hy3"])
def test_a_call_that_is_cut_off_says_so(family: str) -> None:
    chat = chat_for(family)
    [(ids, mask)] = chat.demonstration_segments(
        [*ASK, {"role": "assistant", "content": "", "tool_calls": [call_for(family)]}]
    )
    sampled = [token for token, own in zip(ids, mask, strict=True) if own]
    [call] = chat.parse(chat.prompt(ASK), sampled[: len(sampled) * 2 // 3]).calls
    assert (call.arguments, call.error) == (
        None,
        "the call is cut off: the marker that ends it is missing",
    )


def test_good_and_bad_calls_of_a_turn_are_both_there_with_the_text_around_them() -> None:
    text = 'One.<tool_call>\n{"name": "a"}\n</tool_call>Two.<tool_call>\nhuh\n</tool_call>Three.'
    text += '<tool_call>\n{"na'
    turn = UNTAGGED.parse(UNTAGGED.prompt(ASK), UNTAGGED.encode(text))
    assert turn.content == "One.\nTwo.\nThree."
    assert [(call.name, call.arguments, call.error is None) for call in turn.calls] == [
        ("a", {}, True),
        (None, None, False),
        (None, None, False),
    ]
    again = UNTAGGED.assistant_message(turn)
    assert "huh" in again["content"]
    assert [call["function"]["name"] for call in again["tool_calls"]] == ["a"]


def test_arguments_in_a_string_of_json_are_understood() -> None:
    body = '{"name": "search", "arguments": "{\\"query\\": \\"x\\"}"}'
    [call] = TAGGED.parse([], written(TAGGED, f"<tool_call>{body}</tool_call>")).calls
    assert (call.arguments, call.error) == ({"query": "x"}, None)


def test_calls_in_unfinished_reasoning_are_not_made() -> None:
    call = '<tool_call>\n{"name": "a"}\n</tool_call>'
    assert TAGGED.parse([], written(TAGGED, f"<think>Perhaps {call}")).calls == ()
    done = TAGGED.parse([], written(TAGGED, f"<think>\nHm.\n</think>\n\nSo: {call}<|im_end|>"))
    assert (done.reasoning, done.content, len(done.calls)) == ("Hm.", "So:", 1)


# Code fences


def fence_step(text: str, result: str = "42") -> tuple[Any, str]:
    """A completion's parsed turn, and what is appended to it."""
    prompt, completion = FENCE.prompt(ASK, PYTHON), written(FENCE, text)
    turn = FENCE.parse(prompt, completion, PYTHON)
    extended = FENCE.extend(prompt, completion, FENCE.observation_messages(turn.calls, [result]), PYTHON)
    assert extended is not None
    assert extended[: len(prompt) + len(completion)] == prompt + completion
    return turn, FENCE.decode(extended[len(prompt) + len(completion) :])


CODE = "Let me compute.\n```python\nprint(6 * 7)\n"


@pytest.mark.parametrize(
    ("ending", "appended"),
    [
        ("```\n", "```output\n42\n```\n"),
        ("```", "\n```output\n42\n```\n"),
        ("```\n```output", "\n42\n```\n"),
        ("```output", "\n42\n```\n"),
        ("```\n```output\n", "42\n```\n"),
        ("```\n\n", "```output\n42\n```\n"),
        (
            "```<|im_end|>",
            "\n<|im_start|>user\n```output\n42\n```<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_the_output_follows_the_code_in_the_same_turn(ending: str, appended: str) -> None:
    turn, added = fence_step(CODE + ending)
    assert added == appended
    assert [(call.name, call.arguments, call.error) for call in turn.calls] == [
        ("python", {"code": "print(6 * 7)"}, None)
    ]
    assert turn.content == "Let me compute."


@pytest.mark.parametrize(
    ("cut", "appended"), [("print(6", "\n```\n```output\n42\n```\n"), ("print(6)\n", "```\n```")]
)
def test_code_that_was_cut_off_is_closed_and_the_model_told(cut: str, appended: str) -> None:
    turn, added = fence_step(f"```python\n{cut}")
    assert added.startswith(appended)
    assert [call.error for call in turn.calls] == [FENCE_CUT]


FENCE_CUT = "the code block is cut off: the line ``` that closes it is missing"


def test_a_fence_of_something_else_is_a_mistake_only_if_generation_stopped_at_it() -> None:
    turn, added = fence_step("Here:\n```\n", "write ```python")
    assert [call.name for call in turn.calls] == [None]
    assert "write ```python" in added
    assert FENCE.parse([], written(FENCE, "```\n42\n```\nThat is it.<|im_end|>")).calls == ()
    assert FENCE.parse([], written(FENCE, "The answer is 42.<|im_end|>")).calls == ()


def test_generation_stops_at_closing_fences_only() -> None:
    assert not any(stop in CODE for stop in FENCE.stop_strings)
    assert any(stop in CODE + "```\n" for stop in FENCE.stop_strings)
    assert TAGGED.stop_strings == ()


def test_a_code_fence_has_the_one_tool() -> None:
    with pytest.raises(DataError, match="can only call the tool 'python', not search"):
        FENCE.prompt(ASK, TOOLS)


# Demonstrations

# The families whose templates write an assistant message down as a model samples it.
DEMONSTRABLE = sorted(set(FAMILIES) - {"deepseek-r1"})
# Those of them that write reasoning down, and are not asked for none by their prompts.
THINKING = {"chatml-json", "qwen3", "qwen3.5", "qwen3.6", "qwen3.8", "nemotron-3", "nemotron-3.5", "glm-4.5"}
THINKING |= {"glm-5", "glm-5.1", "glm-5.3", "minimax-m2", "gemma4", "laguna-s-2.1", "inkling"}


def dialogue(family: str) -> list[Message]:
    thought = {"reasoning_content": "Let me see."} if family in THINKING else {}
    call = call_for(family)
    name = call["function"]["name"]
    return [
        {"role": "system", "content": "Be brief."},
        *ASK,
        {"role": "assistant", "content": "", "tool_calls": [call], **thought},
        {"role": "tool", "name": name, "tool_call_id": call["id"], "content": "42"},
        {"role": "assistant", "content": "It is 42.", **thought},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes.", **thought},
    ]


@pytest.mark.parametrize("family", DEMONSTRABLE)
def test_a_demonstration_is_what_a_rollout_of_it_gives(family: str) -> None:
    chat, tools, messages = chat_for(family), tools_for(family), dialogue(family)
    prompt, history, position = chat.prompt(messages[:2], tools), messages[:2], 2
    for ids, mask in chat.demonstration_segments(messages, tools):
        assert len(ids) == len(mask)
        while (start := len(prompt)) < len(ids):
            assert ids[:start] == prompt
            assert mask[start], "generation starts where the prompt ends"
            end = next((i for i in range(start, len(ids)) if not mask[i]), len(ids))
            completion = ids[start:end]
            assert completion[-1] in chat.stop_token_ids or chat.stop_strings
            turn, expected = chat.parse(prompt, completion, tools), messages[position]
            alone = chat.demonstration_turn([*history, expected], tools)
            assert alone[:-1] == completion[:-1]  # in some families the next message chooses the stop token
            assert len(alone) == len(completion)
            assert turn.content.strip() == expected["content"]
            assert (turn.reasoning or "").strip() == expected.get("reasoning_content", "")
            assert [call.arguments for call in turn.calls] == [
                call["function"]["arguments"] for call in expected.get("tool_calls", ())
            ]
            new = messages[position + 1 : position + 2]
            history, position = [*history, expected, *new], position + 2
            extended = chat.extend(prompt, completion, new, tools) if new else None
            if extended is None:
                assert end == len(ids)
                break
            prompt = extended
        prompt = chat.prompt(history, tools)
    assert position == len(messages) + 1, "every assistant message was learnt from"


TEXTS = st.text(max_size=40)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), TEXTS)
def test_chatml_demonstrations_are_one_segment_and_equal_the_rendered_dialogue(
    steps: list[tuple[str, str]], answer: str
) -> None:
    messages = list(ASK)
    for index, (query, result) in enumerate(steps):
        function = {"name": "search", "arguments": {"query": query}}
        messages += [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": str(index), "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": str(index), "content": result},
        ]
    messages.append({"role": "assistant", "content": answer})
    for chat in (TAGGED, UNTAGGED):
        ids, mask = chat.render_demonstration(messages, TOOLS)
        rendered = chat.render(messages, TOOLS)
        assert ids == list(rendered.token_ids)[:-1], "only the line break behind the last turn is missing"
        assert mask == list(rendered.sampled_mask)[:-1]
        assert sum(mask[i] and ids[i] == END for i in range(len(ids))) == len(steps) + 1


def test_a_dialogue_of_several_segments_is_not_passed_off_as_one() -> None:
    chat = chat_for("qwen3")
    assert len(chat.demonstration_segments(dialogue("qwen3"), TOOLS)) == 2
    with pytest.raises(ModelUnsupported, match="2 separate segments"):
        chat.render_demonstration(dialogue("qwen3"), TOOLS)


def test_a_demonstration_needs_an_assistant() -> None:
    with pytest.raises(DataError, match="assistant"):
        TAGGED.render_demonstration(ASK)


# A user's own renderer

LIAR = """
from agentrl.chat.chatml import ChatMLConfig, ChatMLRenderer

class Liar(ChatMLRenderer):
    config_class = ChatMLConfig

    def bridge_to_next_turn(self, previous_prompt_ids, previous_completion_ids, new_messages, *, tools=None):
        return self.render(new_messages, add_generation_prompt=True)

    def parse_response(self, token_ids, *, tools=None, prompt_ids=None):
        raise IndexError("off by one")
"""


def test_a_renderer_that_changes_sampled_tokens_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "liar.py"
    path.write_text(LIAR)
    chat = Chat(TAGGED.tokenizer, f"{path}:Liar")
    with pytest.raises(UsageError, match="changed tokens that were sampled"):
        chat.extend(chat.prompt(ASK), [END], ASK)
    [call] = chat.parse(chat.prompt(ASK), chat.encode("hello")).calls
    assert (call.raw, call.error is None) == ("hello", False)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "robot", "content": "x"}],
        [*ASK, {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "[1]"}}]}],
        [{"role": "user", "content": [{"type": "image", "image": None}]}],
    ],
)
def test_what_is_no_conversation_is_refused(messages: list[Message]) -> None:
    with pytest.raises(DataError):
        TAGGED.prompt(messages)


def test_content_in_text_parts_is_content() -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "6 * 7?"}]
    assert TAGGED.prompt([{"role": "user", "content": parts}]) == TAGGED.prompt(ASK)
    assert TAGS[0] not in TAGGED.decode(TAGGED.prompt(ASK))

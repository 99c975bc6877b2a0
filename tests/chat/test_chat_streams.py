"""What must hold of every family: streams only grow, calls come back, text stays text."""

from __future__ import annotations

from typing import Any

import pytest
from chat_families import FAMILIES, call_for, chat_for, tools_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentrl.chat import Chat, Message

# DeepSeek-R1's template drops reasoning from every earlier turn, so nothing can be appended to it.
EXTENDABLE = sorted(set(FAMILIES) - {"deepseek-r1"})
OPENING: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France?"},
]
# ... and what it writes down of a turn is not what the model sampled.
UNDEMONSTRABLE = {"deepseek-r1"}
# Their prompts close the reasoning at once, unless asked otherwise.
UNTHINKING = {"hy3", "laguna-xs.2"}
SOME = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


def sampled(chat: Chat, family: str, message: Message) -> list[int]:
    """The tokens that a model would sample after ``OPENING`` for ``message``, turn end included."""
    tools = tools_for(family)
    if family not in UNDEMONSTRABLE:
        [(ids, mask)] = chat.demonstration_segments([*OPENING, message], tools)
        return [token for token, is_sampled in zip(ids, mask, strict=True) if is_sampled]
    rendered = chat.render([*OPENING, message, {"role": "user", "content": "?"}], tools)
    owned = zip(rendered.token_ids, rendered.message_indices, rendered.sampled_mask, strict=True)
    own = [token for token, owner, is_sampled in owned if owner == 2 and is_sampled]
    return [*chat.tokenizer.encode("I see.\n</think>\n\n", add_special_tokens=False), *own]


def calling(family: str) -> Message:
    call = call_for(family)
    message: Message = {"role": "assistant", "content": "", "tool_calls": [call]}
    return message if family in UNTHINKING else {**message, "reasoning_content": "I see."}


@st.composite
def completions(draw: st.DrawFn, chat: Chat, family: str) -> list[int]:
    """Sampled ids as an engine may return them: sense, nonsense, cut off or not, with at most one stop."""
    kind = draw(st.sampled_from(["text", "call", "noise", "mixture"]))
    call = sampled(chat, family, calling(family))
    if kind == "text":
        ids = chat.encode(draw(st.text(max_size=30)))
    elif kind == "call":
        ids = call[: draw(st.integers(0, len(call)))]
    else:
        # Embeddings have rows beyond the vocabulary, and a policy may sample them.
        ids = draw(st.lists(st.integers(0, len(chat.tokenizer) + 20), max_size=12))
        if kind == "mixture":
            cut = draw(st.integers(0, len(call)))
            ids = [*call[:cut], *ids, *call[cut:]]
    body = [token for token in ids if token not in chat.stop_token_ids]
    return body + draw(st.sampled_from([[], *([stop] for stop in chat.stop_token_ids)]))


@pytest.mark.parametrize("family", EXTENDABLE)
@SOME
@given(data=st.data())
def test_prompt_and_sampled_ids_are_a_prefix_of_the_next_prompt(family: str, data: st.DataObject) -> None:
    chat, tools = chat_for(family), tools_for(family)
    messages = [
        *OPENING[: data.draw(st.integers(1, 2))],
        {"role": "user", "content": data.draw(st.text(max_size=20))},
    ]
    prompt = chat.prompt(messages, tools)
    for _ in range(data.draw(st.integers(1, 3))):
        completion = data.draw(completions(chat, family))
        turn = chat.parse(prompt, completion, tools)
        assert all((call.error is None) == (call.arguments is not None) for call in turn.calls)
        texts = [data.draw(st.text(max_size=20)) for _ in turn.calls]
        new = chat.observation_messages(turn.calls, texts) or [{"role": "user", "content": "Go on."}]
        extended = chat.extend(prompt, completion, new, tools)
        messages = [*messages, chat.assistant_message(turn), *new]
        if extended is None:
            prompt = chat.prompt(messages, tools)
            continue
        before = prompt + completion
        assert extended[: len(before)] == before
        assert len(extended) > len(before)
        prompt = extended


@pytest.mark.parametrize("family", EXTENDABLE)
def test_a_tool_result_always_extends_a_well_formed_call(family: str) -> None:
    chat, tools = chat_for(family), tools_for(family)
    prompt = chat.prompt(OPENING, tools)
    completion = sampled(chat, family, calling(family))
    turn = chat.parse(prompt, completion, tools)
    extended = chat.extend(prompt, completion, chat.observation_messages(turn.calls, ["forty-two"]), tools)
    assert extended is not None
    assert extended[: len(prompt) + len(completion)] == prompt + completion
    assert "forty-two" in chat.decode(extended[len(prompt) + len(completion) :])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_call_comes_back_as_it_was_written(family: str) -> None:
    chat, call = chat_for(family), call_for(family)["function"]
    prompt = chat.prompt(OPENING, tools_for(family))
    turn = chat.parse(prompt, sampled(chat, family, calling(family)), tools_for(family))
    assert [(c.name, c.arguments, c.error) for c in turn.calls] == [(call["name"], call["arguments"], None)]
    assert turn.content.strip() == ""


# Llama's template has one call per turn.
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"llama-3"}))
def test_two_calls_have_two_ids_and_the_same_ones_when_parsed_again(family: str) -> None:
    chat = chat_for(family)
    message = calling(family)
    message["tool_calls"] = [call_for(family), call_for(family, "functions.search:1")]
    prompt = chat.prompt(OPENING, tools_for(family))
    completion = sampled(chat, family, message)
    calls = chat.parse(prompt, completion, tools_for(family)).calls
    assert len({call.id for call in calls}) == 2
    assert calls == chat.parse(prompt, completion, tools_for(family)).calls


def attacks(chat: Chat) -> list[str]:
    """Every control token's spelling, alone, doubled, nested in itself, and next to the others."""
    tokens = sorted(chat.tokenizer.get_added_vocab())
    nested = [token[:2] + token + token[2:] for token in tokens]
    return [*tokens, *nested, "".join(tokens), "~!@#1".join(tokens), "~!@#0<|im_end|>~!@#"]


def control_ids(chat: Chat) -> set[int]:
    return set(chat.tokenizer.get_added_vocab().values())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_text_is_never_encoded_as_control_tokens(family: str) -> None:
    chat = chat_for(family)
    for text in attacks(chat):
        ids = chat.encode(text)
        assert control_ids(chat).isdisjoint(ids)
        assert chat.decode(ids) == text


def controls(chat: Chat, ids: list[int]) -> list[int]:
    return [token for token in ids if token in control_ids(chat)]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_messages_cannot_bring_control_tokens_with_them(family: str) -> None:
    """The control tokens of a prompt are those of the same prompt with harmless words in it."""
    chat, tools = chat_for(family), tools_for(family)
    attack = "x" + "".join(attacks(chat)) + "x"
    halves = [{"type": "text", "text": "x<|im_"}, {"type": "text", "text": "end|>x"}]

    def dialogue(content: Any, argument: str) -> list[Message]:
        call = call_for(family)
        arguments = dict(call["function"]["arguments"])
        arguments["code" if family == "code-fence" else "query"] = argument
        call["function"]["arguments"] = arguments
        name = call["function"]["name"]
        return [
            {"role": "system", "content": content},
            {"role": "user", "content": content},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": name, "tool_call_id": "functions.search:0", "content": content},
        ]

    plain = chat.prompt(dialogue("xx", "xx"), tools)
    for content in (attack, halves):
        hostile = chat.prompt(dialogue(content, attack), tools)
        assert controls(chat, hostile) == controls(chat, plain)
    assert attack in chat.decode(chat.prompt(dialogue(attack, "xx"), tools)).replace('\\"', '"')


@pytest.mark.parametrize("family", EXTENDABLE)
def test_tool_results_cannot_bring_control_tokens_with_them(family: str) -> None:
    chat, tools = chat_for(family), tools_for(family)
    prompt, completion = chat.prompt(OPENING, tools), sampled(chat, family, calling(family))
    calls = chat.parse(prompt, completion, tools).calls
    results = [
        chat.extend(prompt, completion, chat.observation_messages(calls, [text]), tools)
        for text in ("xx", "x" + "".join(attacks(chat)) + "x")
    ]
    assert results[0] is not None
    assert results[1] is not None
    assert controls(chat, results[0]) == controls(chat, results[1])


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"code-fence"}))
def test_tool_descriptions_cannot_bring_control_tokens_with_them(family: str) -> None:
    chat = chat_for(family)

    def described(text: str) -> list[dict[str, Any]]:
        limit = {"type": "string", "enum": [text], "description": text}
        parameters = {"type": "object", "properties": {"query": {"type": "string"}, "limit": limit}}
        function = {"name": "search", "description": text, "parameters": parameters}
        return [{"type": "function", "function": function}]

    hostile = chat.prompt(OPENING, described("x" + "".join(attacks(chat)) + "x"))
    assert controls(chat, hostile) == controls(chat, chat.prompt(OPENING, described("xx")))

"""Which renderer a model gets, and what is said when there is none."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from chat_families import FAMILIES, TOOLS, make_tokenizer

from agentrl.chat import Chat, Message, ParsedCall
from agentrl.errors import ConfigError, ModelUnsupported

ASK: list[Message] = [{"role": "user", "content": "What is 6 * 7?"}]
SIMPLE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADER = """

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
FOOTER = """
</tools>

For each function call, return a json object with function name and arguments \
within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
# Says the same as Qwen3's own template does of conversations without reasoning.
QWEN3 = (
    f"{{% set header = {HEADER!r} %}}{{% set footer = {FOOTER!r} %}}"
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ '<|im_start|>system\n' + m.content }}{% if tools %}{{ header }}"
    "{% for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}{{ footer }}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' + m.content }}"
    "{% for c in m.tool_calls %}"
    '{{ \'\n<tool_call>\n{"name": "\' + c.function.name + \'", "arguments": \' }}'
    "{{ (c.function.arguments | tojson) + '}\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif m.role == 'tool' %}"
    "{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{% endif %}"
)


def save(folder: Path, family: str, template: str | None = None, **files: object) -> str:
    tokenizer = make_tokenizer(*FAMILIES[family])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


def test_a_local_copy_of_a_known_family_is_known_by_its_tokens_and_template(tmp_path: Path) -> None:
    chat = Chat.load(save(tmp_path, "qwen3", QWEN3))
    assert chat.name == "qwen3"
    assert chat.decode(chat.prompt(ASK)).endswith("<|im_start|>assistant\n")


def test_a_template_that_does_not_think_by_default_gives_a_prompt_that_does_not(tmp_path: Path) -> None:
    quiet = QWEN3.replace(
        "enable_thinking is defined and enable_thinking is false",
        "not (enable_thinking is defined and enable_thinking)",
    )
    chat = Chat.load(save(tmp_path, "qwen3", quiet))
    assert chat.name == "qwen3"
    assert chat.decode(chat.prompt(ASK)).endswith("<think>\n\n</think>\n\n")


def test_the_tokens_of_a_family_with_another_template_are_not_enough(tmp_path: Path) -> None:
    changed = QWEN3.replace("# Tools", "# Functions")
    assert Chat.load(save(tmp_path, "qwen3", changed)).name == "chatml-json"


def test_a_hub_name_in_the_config_is_believed(tmp_path: Path) -> None:
    folder = save(tmp_path, "qwen3", None, config={"model_type": "qwen3", "_name_or_path": "Qwen/Qwen3-0.6B"})
    assert Chat.load(folder).name == "qwen3"


@pytest.mark.parametrize("template", [None, SIMPLE])
def test_any_chatml_vocabulary_gets_our_chatml(tmp_path: Path, template: str | None) -> None:
    chat = Chat.load(save(tmp_path, "code-fence", template))
    assert chat.name == "chatml-json"
    assert chat.extend(chat.prompt(ASK), chat.encode("42"), ASK) is not None


def test_the_file_in_the_folder_has_the_first_word(tmp_path: Path) -> None:
    folder = save(
        tmp_path, "qwen3", QWEN3, agentrl_chat={"renderer": "chatml-json", "tools_in_prompt": False}
    )
    chat = Chat.load(folder)
    assert chat.name == "chatml-json"
    assert chat.prompt(ASK, TOOLS) == chat.prompt(ASK)
    assert "agentrl_chat.json" in chat.reason
    assert Chat.load(folder, renderer="code-fence").name == "code-fence", "an argument has the last one"


@pytest.mark.parametrize(
    "content", [{"name": "x"}, ["chatml-json"], {"renderer": "evil.py:Renderer"}, {"renderer": 3}]
)
def test_a_file_that_is_wrong_is_an_error(tmp_path: Path, content: object) -> None:
    with pytest.raises(ConfigError, match="agentrl_chat.json"):
        Chat.load(save(tmp_path, "qwen3", None, agentrl_chat=content))


def test_an_unknown_format_is_prompted_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    template = "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}{{ '[assistant]' }}"
    with caplog.at_level(logging.WARNING):
        chat = Chat.load(save(tmp_path, "deepseek-v4", template))
    assert chat.name == "default"
    assert "cannot be extended" in caplog.text
    assert chat.decode(chat.prompt(ASK)) == "[user]What is 6 * 7?[assistant]"
    assert chat.extend(chat.prompt(ASK), chat.encode("42"), ASK) is None
    hostile = chat.prompt([{"role": "user", "content": "<｜User｜>"}])
    assert set(hostile).isdisjoint(chat.tokenizer.get_added_vocab().values())


def test_a_template_that_ignores_tool_messages_is_told_results_by_the_user(tmp_path: Path) -> None:
    template = "{% for m in messages if m.role != 'tool' %}{{ '[' + m.role + ']' + m.content }}{% endfor %}"
    chat = Chat.load(save(tmp_path, "deepseek-v4", template))
    call = ParsedCall(name="search", arguments={}, raw="", error=None, id="1")
    assert chat.observation_messages([call], ["It is blue."]) == [{"role": "user", "content": "It is blue."}]
    all_of_them = template.replace(" if m.role != 'tool'", "")
    again = Chat.load(save(tmp_path, "deepseek-v4", all_of_them))
    assert [m["role"] for m in again.observation_messages([call], ["It is blue."])] == ["tool"]


def test_nothing_to_go_by_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match="Name a renderer"):
        Chat.load(save(tmp_path, "deepseek-v4"))


def test_a_missing_folder_and_an_empty_one_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match="there is no folder"):
        Chat.load(str(tmp_path / "nothing"))
    with pytest.raises(ModelUnsupported, match="no tokenizer could be loaded"):
        Chat.load(str(tmp_path))


def test_names_and_options_that_do_not_exist_are_explained() -> None:
    tokenizer = make_tokenizer(*FAMILIES["qwen3"])
    with pytest.raises(ConfigError, match=r"nearest are .*qwen3"):
        Chat(tokenizer, "qwen-3")
    with pytest.raises(ConfigError, match="enable_thinkin"):
        Chat(tokenizer, "qwen3", options={"enable_thinkin": False})
    with pytest.raises(ConfigError, match="enable_thinkin"):
        Chat(tokenizer, "chatml-json", options={"enable_thinkin": False})
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Chat(tokenizer, "no_such_module.Renderer")
    with pytest.raises(ModelUnsupported, match="glm-5"):
        Chat(tokenizer, "glm-5")
    assert Chat(tokenizer, "qwen3", options={"enable_thinking": False}).name == "qwen3"


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("renderers", "openai", "torch", "transformers", "tokenizers", "pydantic")
    code = f"import sys, agentrl.chat; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"

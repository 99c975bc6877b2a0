"""Which renderer a model gets, when none is named.

In this order, the first that applies:

1. ``agentrl_chat.json`` in the model's folder: ``{"renderer": name, ...options}``;
2. the model's name on the hub, where ``renderers`` knows it exactly;
3. a family whose control tokens the vocabulary holds *and* whose renderer gives, on trial
   conversations, the very tokens that the tokenizer's own chat template gives;
4. ``chatml-json``, if the vocabulary holds ChatML's tokens;
5. the tokenizer's chat template as it is, which can be prompted but not extended.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from agentrl.chat.shield import added_spellings
from agentrl.chat.types import Message, ToolSchema
from agentrl.errors import ConfigError, ModelUnsupported

log = logging.getLogger(__name__)

CHAT_FILE = "agentrl_chat.json"

# Tokens without which a family is not worth a trial. The trial decides; this only keeps it short
# (and keeps gpt-oss, which fetches its vocabulary, from being tried on every model).
_FAMILIES: dict[str, tuple[str, ...]] = {
    "qwen3": ("<|im_start|>", "<tool_call>", "<tool_response>"),
    "qwen3-vl": ("<|im_start|>", "<tool_call>", "<|vision_start|>"),
    "qwen3.5": ("<|im_start|>", "<tool_call>", "<|vision_start|>"),
    "qwen3.6": ("<|im_start|>", "<tool_call>", "<|vision_start|>"),
    "qwen3.8": ("<|im_start|>", "<tool_call>", "<|vision_start|>"),
    "prime-qwen3": ("<|im_start|>", "<tool_call>", "<think>"),
    "nemotron-3": ("<|im_start|>", "<tool_call>", "<think>"),
    "nemotron-3-ultra": ("<|im_start|>", "<tool_call>", "<think>"),
    "nemotron-3.5": ("<|im_start|>", "<tool_call>", "<think>"),
    "glm-4.5": ("[gMASK]", "<|observation|>", "<arg_key>"),
    "glm-5": ("[gMASK]", "<|observation|>", "<arg_key>"),
    "glm-5.1": ("[gMASK]", "<|observation|>", "<arg_key>"),
    "glm-5.3": ("[gMASK]", "<|observation|>", "<arg_key>"),
    "minimax-m2": ("]~!b[", "<minimax:tool_call>"),
    "deepseek-v3": ("<｜tool▁calls▁begin｜>",),
    "deepseek-r1": ("<｜tool▁calls▁begin｜>",),
    "kimi-k2": ("<|im_middle|>", "<|tool_calls_section_begin|>"),
    "kimi-k2.5": ("<|im_middle|>", "<|tool_calls_section_begin|>"),
    "llama-3": ("<|start_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    "gpt-oss": ("<|channel|>", "<|constrain|>", "<|return|>"),
    "gemma4": ("<|turn>", "<turn|>"),
    "hy3": ("<｜hy_User:opensource｜>",),
    "laguna-xs.2": ("<assistant>", "</assistant>", "<tool_call>"),
    "laguna-m.1": ("<assistant>", "</assistant>", "<tool_call>"),
    "laguna-xs-2.1": ("<assistant>", "</assistant>", "<tool_call>"),
    "laguna-s-2.1": ("<assistant>", "</assistant>", "<tool_call>"),
    "inkling": ("<|message_user|>", "<|message_model|>"),
}

_TOOLS: list[ToolSchema] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look something up.",
            "parameters": {
                "type": "object",
                "properties": {
                    "words": {"type": "string"},
                    "flags": {"type": "array"},
                    "deep": {"type": "boolean"},
                },
                "required": ["words"],
            },
        },
    }
]
_CALL = {"name": "look_up", "arguments": {"words": "old maps", "flags": ["a", 1], "deep": True}}
_QUESTION: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is it?"},
]
_DIALOGUE: list[Message] = [
    *_QUESTION,
    {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [{"id": "functions.look_up:0", "type": "function", "function": _CALL}],
    },
    {"role": "tool", "name": "look_up", "tool_call_id": "functions.look_up:0", "content": "In the attic."},
]
Trial: TypeAlias = tuple[list[Message], list[ToolSchema] | None]
_TRIALS: tuple[Trial, ...] = (
    (_QUESTION, None),
    (_QUESTION, _TOOLS),
    (_DIALOGUE, _TOOLS),
)


@dataclass(frozen=True)
class Choice:
    """A renderer's name, its options, and in a few words why it was chosen."""

    name: str
    reason: str
    options: Mapping[str, Any] = field(default_factory=dict)


def choose(tokenizer: Any) -> Choice:
    """The renderer for ``tokenizer``, by the rules at the top of this module.

    Raises:
        ConfigError: ``agentrl_chat.json`` is not as it should be.
        ModelUnsupported: nothing fits, and there is no chat template to fall back on.
    """
    folder = Path(str(getattr(tokenizer, "name_or_path", "") or "/nonexistent"))
    if (folder / CHAT_FILE).is_file():
        return _from_file(folder / CHAT_FILE)
    if name := _from_hub_name(tokenizer, folder):
        return Choice(name, "renderers knows this model by name")
    if choice := _from_template(tokenizer):
        return choice
    if {"<|im_start|>", "<|im_end|>"} <= added_spellings(tokenizer):
        return Choice("chatml-json", "its vocabulary holds ChatML's control tokens")
    if not getattr(tokenizer, "chat_template", None):
        raise ModelUnsupported(
            f"no chat format fits the model at {folder}: it has no chat template, and its control tokens are "
            f"of no known family. Name a renderer: pass renderer=..., or write {CHAT_FILE} into its folder"
        )
    log.warning(
        "no renderer knows the chat format of %s: its chat template is used as it is. Sampled streams cannot "
        "be extended, so every turn of an episode becomes a training segment of its own, and tool calls are "
        "not parsed unless the option tool_parser is given. To name a renderer, pass renderer=... or write "
        '{"renderer": ...} into %s in its folder',
        folder,
        CHAT_FILE,
    )
    return Choice("default", "no renderer knows its chat format")


def _from_file(path: Path) -> Choice:
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
        name = options.pop("renderer")
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f'{path} must hold a JSON object that names a renderer, as {{"renderer": "chatml-json"}}; '
            f"reading it failed with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(name, str) or "/" in name or ":" in name:
        raise ConfigError(
            f"{path} names the renderer {name!r}; a model's folder may only name an installed one, "
            "never a file of code"
        )
    return Choice(name, f"{path} says so", options)


def _from_hub_name(tokenizer: Any, folder: Path) -> str | None:
    from renderers.base import MODEL_RENDERER_MAP

    names = [str(folder)]
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        names.append(str(config.get("_name_or_path", "")))
    except (OSError, ValueError, AttributeError):
        pass  # No config, no second name.
    return next((MODEL_RENDERER_MAP[name] for name in names if name in MODEL_RENDERER_MAP), None)


def _from_template(tokenizer: Any) -> Choice | None:
    from renderers.configs import config_from_name

    if not getattr(tokenizer, "chat_template", None):
        return None
    spellings = added_spellings(tokenizer)
    for name in [name for name, tokens in _FAMILIES.items() if spellings.issuperset(tokens)]:
        config = config_from_name(name)
        options = _agreeing_options(tokenizer, config)
        if options is not None:
            return Choice(name, "its control tokens and chat template are those of this family", options)
    return None


def _agreeing_options(tokenizer: Any, config: Any) -> dict[str, bool] | None:
    """The options with which the family's renderer does as the chat template does, or None if it never does.

    Sizes of one family may differ in whether they think when nothing is said of it. So the trials say it,
    and then one without a word tells the default.
    """
    if "enable_thinking" not in config.template_field_names():
        return {} if _agrees(tokenizer, config, _TRIALS, {}) else None
    thinking = config.enable_thinking is not False  # None leaves it to the model's name, unknown here.
    if not _agrees(tokenizer, config, _TRIALS, {"enable_thinking": thinking}):
        return None
    for options in ({}, {"enable_thinking": not thinking}):
        if _agrees(tokenizer, config.model_copy(update=options), _TRIALS[:1], {}):
            return options
    return None


def _agrees(tokenizer: Any, config: Any, trials: Sequence[Trial], switches: Mapping[str, bool]) -> bool:
    """Does the renderer give the chat template's tokens on every trial? A refusal of either is a no."""
    from renderers.base import create_renderer

    try:
        renderer = create_renderer(tokenizer, config)
        return all(
            renderer.render_ids(messages, tools=tools, add_generation_prompt=True)
            == _by_template(tokenizer, messages, tools, switches)
            for messages, tools in trials
        )
    except Exception as error:  # Renderers assert what they need, and a template is somebody's program.
        log.debug("the renderer %s does not fit: %s", config.name, error)
        return False


def _by_template(
    tokenizer: Any, messages: list[Message], tools: list[ToolSchema] | None, switches: Mapping[str, bool]
) -> list[int]:
    ids = tokenizer.apply_chat_template(
        messages,
        tools=tools,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
        date_string="26 Jul 2024",  # What a template of Llama's would else take from the clock.
        **switches,
    )
    return list(ids)

"""Small tokenizers with the control tokens of each model family, made in memory."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agentrl.chat import Chat

TEXT = [
    "system user assistant tool function name arguments python output print code answer\n",
    '{"name": "search", "arguments": {"query": "old maps", "limit": 3}}\n',
    "The capital of France is Paris. What is two plus two? Let me look that up for you.\n",
    "0 1 2 3 4 5 6 7 8 9 10 42 100 true false null ```python ```output\n",
]
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
VISION = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_GLM = ["[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|endoftext|>"]
_GLM_TAGS = [*TAGS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"]
_KIMI = ["<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>", "<|im_end|>", "[BOS]", "[EOS]"]
_KIMI += ["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"]
_KIMI += ["<|tool_call_argument_begin|>", "<|tool_call_end|>"]
_KIMI_MEDIA = ["<|media_begin|>", "<|media_content|>", "<|media_pad|>", "<|media_end|>"]
_DEEPSEEK = ["begin▁of▁sentence", "end▁of▁sentence", "User", "Assistant"]
_DEEPSEEK_TAGS = [f"tool▁{part}" for part in ("calls", "call", "outputs", "output")]
_DEEPSEEK += [f"{tag}▁{end}" for tag in _DEEPSEEK_TAGS for end in ("begin", "end")]
_DEEPSEEK = [f"<｜{name}｜>" for name in [*_DEEPSEEK, "tool▁sep"]]
_DEEPSEEK4 = ["begin▁of▁sentence", "end▁of▁sentence", "User", "Assistant", "latest_reminder"]
_DEEPSEEK4 += ["action", "query", "authority", "domain", "title", "read_url"]
_DEEPSEEK4 = [*(f"<｜{name}｜>" for name in _DEEPSEEK4), "<think>", "</think>", "｜DSML｜"]
_LLAMA = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
_LLAMA += ["<|eot_id|>", "<|eom_id|>", "<|python_tag|>"]
_MINIMAX = ["]~!b[", "]~b]", "[e~["]
_MINIMAX_TAGS = ["<think>", "</think>", "<minimax:tool_call>", "</minimax:tool_call>"]
_LAGUNA = ["〈|EOS|〉", "<assistant>", "</assistant>"]
_GEMMA = ["<bos>", "<eos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"]
_GEMMA += ["<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>"]
_GEMMA += ["<|image>", "<|image|>", "<image|>", '<|"|>']
_HY3 = [f"<｜{name}:opensource｜>" for name in ("hy_begin_of_sentence", "hy_eos", "hy_User", "hy_Assistant")]
_HY3 += ["<｜reasoning_mode:opensource｜>", "<tool_sep:opensource>"]
_HY3_TAGS = ("think", "tool_calls", "tool_call", "arg_key", "arg_value", "tool_responses", "tool_response")
_HY3 += [f"<{slash}{name}:opensource>" for name in _HY3_TAGS for slash in ("", "/")]
_INKLING = [f"<|message_{role}|>" for role in ("user", "model", "system", "tool")]
_INKLING += [f"<|content_{kind}|>" for kind in ("text", "thinking", "image", "audio_input", "xml")]
_INKLING += ["<|content_invoke_tool_json|>", "<|content_invoke_tool_text|>", "<|content_model_end_sampling|>"]
_INKLING += ["<|end_message|>", "<|audio_end|>", "<|unused_200054|>", "<|unused_200053|>", "<|endoftext|>"]

# Per renderer: control tokens, added tokens that are not "special", and the end-of-sequence token.
FAMILIES: dict[str, tuple[list[str], list[str], str]] = {
    "chatml-json": (CHATML, TAGS[:4], "<|im_end|>"),
    "code-fence": (CHATML, [], "<|endoftext|>"),
    "qwen3": (CHATML, TAGS, "<|im_end|>"),
    "prime-qwen3": (CHATML, TAGS, "<|im_end|>"),
    "qwen3-vl": (CHATML + VISION, TAGS, "<|im_end|>"),
    "qwen3.5": (CHATML + VISION, TAGS, "<|im_end|>"),
    "qwen3.6": (CHATML + VISION, TAGS, "<|im_end|>"),
    "qwen3.8": (CHATML + VISION, TAGS, "<|im_end|>"),
    "nemotron-3": (CHATML, TAGS, "<|im_end|>"),
    "nemotron-3.5": (CHATML, TAGS, "<|im_end|>"),
    "glm-4.5": (_GLM, _GLM_TAGS, "<|endoftext|>"),
    "glm-5": (_GLM, _GLM_TAGS, "<|endoftext|>"),
    "glm-5.1": (_GLM, _GLM_TAGS, "<|endoftext|>"),
    "glm-5.3": (_GLM, _GLM_TAGS, "<|endoftext|>"),
    "minimax-m2": (_MINIMAX, _MINIMAX_TAGS, "[e~["),
    "deepseek-v3": (_DEEPSEEK, [], "<｜end▁of▁sentence｜>"),
    "deepseek-r1": (_DEEPSEEK, ["<think>", "</think>"], "<｜end▁of▁sentence｜>"),
    "deepseek-v4": (_DEEPSEEK4, [], "<｜end▁of▁sentence｜>"),
    "kimi-k2": (_KIMI, [], "[EOS]"),
    "kimi-k2.5": (_KIMI + _KIMI_MEDIA, ["<think>", "</think>"], "[EOS]"),
    "llama-3": (_LLAMA, [], "<|eot_id|>"),
    "laguna-xs.2": (_LAGUNA, [*TAGS[:2], "<think>", "</think>"], "〈|EOS|〉"),
    "laguna-s-2.1": (_LAGUNA, [*TAGS[:2], "<think>", "</think>"], "〈|EOS|〉"),
    "gemma4": (_GEMMA, [], "<eos>"),
    "hy3": (_HY3, [], "<｜hy_eos:opensource｜>"),
    "inkling": (_INKLING, [], "<|endoftext|>"),
}

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search the library.",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
                "required": ["query"],
            },
        },
    }
]
PYTHON: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "python",
            "description": "Run Python.",
            "parameters": {"type": "object", "properties": {"code": {"type": "string"}}},
        },
    }
]


def make_tokenizer(special: list[str], added: list[str], eos: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that learned a few lines, with these control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos)


@cache
def chat_for(family: str) -> Chat:
    return Chat(make_tokenizer(*FAMILIES[family]), family)


def tools_for(family: str) -> list[dict[str, Any]]:
    return PYTHON if family == "code-fence" else TOOLS


def call_for(family: str, identifier: str = "functions.search:0") -> dict[str, Any]:
    """A well-formed call in the OpenAI form."""
    function: dict[str, Any] = {"name": "search", "arguments": {"query": "old maps", "limit": 3}}
    if family == "code-fence":
        function = {"name": "python", "arguments": {"code": "print(6 * 7)"}}
    return {"id": identifier, "type": "function", "function": function}

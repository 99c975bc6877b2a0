"""The embedded policy: a small Qwen3 transformer with a vocabulary of its own.

About a million parameters learn one environment's dialogues in minutes on two cores. What makes
that possible is the vocabulary: digits and signs are tokens by themselves, so that copying a number
is copying tokens, while the words that recur in an environment shrink to few tokens.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl.chat import Chat
from agentrl.chat.detect import CHAT_FILE
from agentrl.chat.vision import takes_images
from agentrl.errors import ModelUnsupported

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from agentrl.chat.vision import Vision

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, START, END, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
MODEL_TYPE = "qwen3"
VOCABULARY = 512
CONTEXT = 1024
"""Longest sequence in tokens."""

CHAT_OPTIONS = {"renderer": "chatml-json", "tools_in_prompt": False}
"""A policy that was taught its tools by demonstration needs no list of them in every prompt."""

# One token each, wherever they stand: what expressions are made of.
_ALONE = r"[0-9]|[-+*/%(),.=]"

# For tools that read a chat template; our own chat package renders by itself.
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_tokenizer(
    texts: Iterable[str] = (),
    size: int = VOCABULARY,
    special: Sequence[str] = SPECIAL_TOKENS,
    recurs: int = 0,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE vocabulary learnt from ``texts``; it encodes any text, known or not.

    Args:
        texts: the same texts give the same vocabulary. With none, every byte is a token.
        size: at most so many tokens, special ones included.
        special: the special tokens, those of :data:`SPECIAL_TOKENS` first.
        recurs: a piece is a token if it occurs as often. What is rarer, such as names, is spelled in pieces
            that are common, which a small model can copy.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_ALONE), "isolated"),
            pre_tokenizers.Split(Regex(r"\s"), "merged_with_next"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=recurs,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[token for token in special if token not in (PAD, END)],
        chat_template=_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """A fresh model for ``tokenizer``: 4 layers of width 128, float32."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def with_vocabulary(
    model: PreTrainedModel, known: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast
) -> PreTrainedModel:
    """A model with the layers of ``model`` and embeddings for another vocabulary.

    A token that was known keeps its embedding; another one begins as the mean of the pieces that it was
    written in. So what the layers do with digits, calls and copies is still there.

    Args:
        model: with tied embeddings; it is left as it is.
        known: its vocabulary.
        tokenizer: the new one.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config.from_dict({**model.config.to_dict(), "vocab_size": len(tokenizer)})
    before = model.get_input_embeddings().weight  # [V, H]
    names = known.get_vocab()
    rows = []
    for number in range(len(tokenizer)):
        name = tokenizer.convert_ids_to_tokens(number)
        pieces = [names[name]] if name in names else known.encode(tokenizer.decode([number]))
        rows.append(before[pieces].mean(dim=0))
    adapted = Qwen3ForCausalLM(config)
    embeddings = torch.stack(rows).detach()
    tied = {"model.embed_tokens.weight", "lm_head.weight"}
    adapted.load_state_dict(
        {name: embeddings if name in tied else value for name, value in model.state_dict().items()}
    )
    return adapted


def chat(tokenizer: Any, vision: Vision | None = None) -> Chat:
    """The chat format that the embedded policy is taught."""
    options = {name: value for name, value in CHAT_OPTIONS.items() if name != "renderer"}
    return Chat(tokenizer, str(CHAT_OPTIONS["renderer"]), options=options, vision=vision)


def load(folder: Path) -> tuple[Any, PreTrainedModel]:
    """The tokenizer and, in float32, the model of a folder.

    Raises:
        ModelUnsupported: they cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    kind = AutoModelForImageTextToText if takes_images(str(folder)) else AutoModelForCausalLM
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = kind.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as problem:
        raise ModelUnsupported(f"The model in {str(folder)!r} cannot be loaded: {problem}") from problem
    return tokenizer, model


def save(model: PreTrainedModel, tokenizer: Any, folder: Path, *, like: Path | None = None) -> None:
    """Write a model folder: bfloat16 weights, tokenizer, and which chat format it speaks.

    Args:
        model: is left in bfloat16.
        like: a folder whose chat format is kept; by default it is the embedded policy's.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[call-arg, unused-ignore]
    tokenizer.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # its writer keeps them from other users
    if like is None:
        (folder / CHAT_FILE).write_text(json.dumps(CHAT_OPTIONS, indent=2) + "\n", encoding="utf-8")
    elif (like / CHAT_FILE).is_file():
        shutil.copyfile(like / CHAT_FILE, folder / CHAT_FILE)

"""The embedded policy that sees: a small Qwen2-VL transformer, in the vocabulary of the one that reads.

An image has at most 112 x 112 pixels, which its vision tower makes into 16 features.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl.chat.vision import MARKS, image_only_processors
from agentrl.train import tiny

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

VIDEO = "<|video_pad|>"
TOKENS = (*MARKS, VIDEO)
"""What the vocabulary holds beside that of :mod:`agentrl.train.tiny`."""

MOST_PIXELS, LEAST_PIXELS = 112 * 112, 28 * 28
WIDTH, LAYERS, HEADS = 128, 4, 4
VISION_LAYERS = 2


def make_processor() -> Any:
    """The image processor: patches of 14 pixels, 2 x 2 of which become one feature."""
    from transformers import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(min_pixels=LEAST_PIXELS, max_pixels=MOST_PIXELS)


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """A fresh model for ``tokenizer``, in float32."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    start, pad, end, video = (tokenizer.convert_tokens_to_ids(token) for token in TOKENS)
    half = WIDTH // HEADS // 2
    torch.manual_seed(seed)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 3 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": tiny.CONTEXT,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": VISION_LAYERS,
            "embed_dim": WIDTH,
            "hidden_size": WIDTH,
            "num_heads": HEADS,
            "mlp_ratio": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=pad,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2VLForConditionalGeneration(config)


def save_processor(processor: Any, tokenizer: Any, folder: Path) -> None:
    """Write what makes a model folder one of a vision-language model: its processor."""
    image_only_processors()
    from transformers import Qwen2VLProcessor

    whole = Qwen2VLProcessor(
        image_processor=processor, tokenizer=tokenizer, chat_template=tokenizer.chat_template
    )
    whole.save_pretrained(folder)

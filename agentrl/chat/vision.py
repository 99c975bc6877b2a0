"""How a vision-language model of the Qwen-VL family takes images: their size, their tokens, their pixels.

An image stands in the token stream as a row of placeholders between two marks, one placeholder for
each feature that the model's vision tower makes of it. How many that are follows from the image's
size alone, by the processor's own rule; so a prompt is made without decoding anything.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from agentrl.chat.types import Message
from agentrl.errors import DataError, ModelUnsupported, UsageError
from agentrl.observation import Picture

MARKS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
"""What an image is written as; the middle one is its placeholder."""

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""``model_type`` of the models whose images are supported."""

NEVER_SAMPLED = (*MARKS, "<|vision_pad|>", "<|video_pad|>")
"""A placeholder that a model samples has no image behind it, and would shift all that follow."""

TORCHVISION_MODULE = "transformers.models.qwen2_vl.image_processing_qwen2_vl"

MOST_ELONGATED = 200
"""How many times as long as wide an image may be."""


@dataclass(frozen=True)
class Vision:
    """The image rules of one model.

    Args:
        placeholder: the token that stands for a feature.
        banned: tokens that are never to be sampled.
        patch: pixels on a side of a patch.
        merge: patches on a side of the square that becomes one feature.
        least_pixels, most_pixels: smaller images are enlarged, larger ones shrunk.
        processor: the model's image processor, of transformers; ``None`` where no model looks at images.
    """

    placeholder: int
    banned: tuple[int, ...]
    patch: int = 14
    merge: int = 2
    least_pixels: int = 56 * 56
    most_pixels: int = 1280 * 28 * 28
    processor: Any = field(default=None, repr=False)

    @classmethod
    def load(cls, model: str, tokenizer: Any) -> Self | None:
        """The rules of the model in a folder, or of that name on the hub; ``None`` if it takes text only.

        Raises:
            ModelUnsupported: it takes images, and its processor cannot be loaded.
        """
        if not takes_images(model):
            return None
        image_only_processors()
        from transformers import AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(model, trust_remote_code=False).image_processor
        except Exception as problem:  # it raises what its many parts raise
            raise ModelUnsupported(
                f"The image processor of the model {model} cannot be loaded: {problem}. A vision-language "
                "model's folder needs a processor_config.json or preprocessor_config.json."
            ) from problem
        return cls.of(tokenizer, processor)

    @classmethod
    def of(cls, tokenizer: Any, processor: Any = None) -> Self:
        """The rules of an image processor, or by default Qwen2-VL's, with a tokenizer.

        Raises:
            ModelUnsupported: the vocabulary lacks the tokens that stand for images.
        """
        found = {token: tokenizer.convert_tokens_to_ids(token) for token in NEVER_SAMPLED}
        known = {name: token for name, token in found.items() if token not in (None, tokenizer.unk_token_id)}
        if missing := [mark for mark in MARKS if mark not in known]:
            raise ModelUnsupported(
                f"This model cannot be shown images: its vocabulary has no {', '.join(missing)}."
            )
        placeholder, banned = known[MARKS[1]], tuple(known.values())
        if processor is None:
            return cls(placeholder, banned)
        size = processor.size
        return cls(
            placeholder, banned, processor.patch_size, processor.merge_size, size["shortest_edge"],
            size["longest_edge"], processor,
        )  # fmt: skip

    def size(self, width: int, height: int, most: int | None = None) -> tuple[int, int]:
        """Width and height that the processor gives an image.

        Each becomes a multiple of a feature's side; then, if the whole has too many pixels or too few, both
        are scaled alike to the limit, and rounded so that it is kept.

        Args:
            most: pixels, where less are wanted than the processor's own limit.

        Raises:
            ValueError: the image is far longer than wide, or wider than long.
        """
        if max(width, height) > MOST_ELONGATED * min(width, height):
            raise ValueError(f"it is more than {MOST_ELONGATED} times as long as wide")
        side = self.patch * self.merge
        limit = self.most_pixels if most is None else min(most, self.most_pixels)
        wide, high = (round(length / side) * side for length in (width, height))
        if wide * high > limit:
            scale = math.sqrt(width * height / limit)
            wide, high = (max(side, math.floor(length / scale / side) * side) for length in (width, height))
        elif wide * high < self.least_pixels:
            scale = math.sqrt(self.least_pixels / (width * height))
            wide, high = (math.ceil(length * scale / side) * side for length in (width, height))
        return wide, high

    def grid(self, width: int, height: int) -> tuple[int, int, int]:
        """The patches of an image: in time, down and across."""
        wide, high = self.size(width, height)
        return 1, high // self.patch, wide // self.patch

    def tokens(self, width: int, height: int) -> int:
        """How many placeholders stand for an image."""
        _, down, across = self.grid(width, height)
        return down * across // self.merge**2

    def pixels(self, pictures: Sequence[Picture]) -> dict[str, Any]:
        """What the processor makes of pictures: ``pixel_values`` ``[patches, values]``, ``image_grid_thw``
        ``[images, 3]``."""
        return dict(self.processor(images=[decoded(each) for each in pictures], return_tensors="pt"))

    def digest(self, picture: Picture) -> str:
        """A fingerprint of the pixel values that the model is given for a picture."""
        return digest_of(self.pixels([picture])["pixel_values"].numpy())

    def expand(self, ids: Sequence[int], images: Sequence[Mapping[str, Any]], start: int = 0) -> list[int]:
        """Which token each token of the stream comes from, once every placeholder is there.

        Args:
            ids: with one placeholder per image from ``start`` on.
            images: the parts that stand for them, in order.

        Raises:
            UsageError: there is not one placeholder for each image.
        """
        found = sum(1 for token in ids[start:] if token == self.placeholder)
        if found != len(images):
            raise UsageError(
                f"A chat format wrote {found} image placeholders for {len(images)} images. It does not take "
                "images in all the messages that hold them here."
            )
        counts = iter(self.tokens(image["width"], image["height"]) for image in images)
        spread: list[int] = list(range(start))
        for index in range(start, len(ids)):
            spread += [index] * (next(counts) if ids[index] == self.placeholder else 1)
        return spread

    def collapse(self, ids: Sequence[int]) -> list[int]:
        """The stream with one placeholder per image, which is what vLLM expands itself."""
        return [
            token
            for before, token in zip([None, *ids], ids, strict=False)
            if token != self.placeholder or before != self.placeholder
        ]


def positions(ids: Sequence[int], grids: Sequence[Sequence[int]], vision: Vision) -> np.ndarray[Any, Any]:
    """M-RoPE positions of a stream: in time, down and across. ``[3, T]``

    Text counts on in all three alike. An image stands at one point of time; its features have their row
    and column in the image; and text goes on after the largest of the three.

    Args:
        grids: the patches of each image, in time, down and across. ``[images, 3]``

    Raises:
        ValueError: the placeholders are not as many as the images have features.
    """
    found = np.empty((3, len(ids)), dtype=np.int64)
    left, at, following = iter(grids), 0, 0
    while at < len(ids):
        if ids[at] != vision.placeholder:
            found[:, at] = following
            at, following = at + 1, following + 1
            continue
        times, down, across = next(left, (0, 0, 0))
        shape = (int(times), int(down) // vision.merge, int(across) // vision.merge)
        size = math.prod(shape)
        if (
            size == 0
            or any(token != vision.placeholder for token in ids[at : at + size])
            or at + size > len(ids)
        ):
            raise ValueError(f"the placeholders from token {at} on are not those of an image of {shape}")
        found[:, at : at + size] = np.indices(shape).reshape(3, size) + following
        at, following = at + size, following + max(shape)
    if next(left, None) is not None:
        raise ValueError("there are more images than rows of placeholders")
    return found


def takes_images(model: str) -> bool:
    """Whether the model in a folder, or of that name on the hub, is of a family that is shown images here."""
    try:
        if Path(model).is_dir():
            config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        else:
            from transformers import PreTrainedConfig

            config, _ = PreTrainedConfig.get_config_dict(model)
        return config.get("model_type") in FAMILIES
    except (OSError, ValueError, AttributeError):  # not there, or no JSON object
        return False


def image_only_processors() -> None:
    """Let processors do without torchvision where that is missing: without a video part, on Pillow.

    transformers reads videos with torchvision alone, and without it would load no processor of a
    model that could also take videos. Frames of a video are shown as images. And vLLM takes Qwen2-VL's
    rule for sizes from a module that imports torchvision; the one for Pillow has the same.
    """
    if importlib.util.find_spec("torchvision") is not None:
        return
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl
    from transformers.processing_utils import ProcessorMixin

    sys.modules.setdefault(TORCHVISION_MODULE, image_processing_pil_qwen2_vl)
    original = ProcessorMixin.get_attributes.__func__
    if hasattr(original, "image_only"):
        return

    def get_attributes(cls: Any) -> list[str]:
        return [name for name in original(cls) if name != "video_processor"]

    get_attributes.image_only = True  # type: ignore[attr-defined]
    ProcessorMixin.get_attributes = classmethod(get_attributes)


def part_of(picture: Picture) -> dict[str, Any]:
    """The part of a message that stands for a picture."""
    return {
        "type": "image",
        "sha256": picture.sha256,
        "width": picture.width,
        "height": picture.height,
    }


def images_in(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The image parts of messages, in order.

    Raises:
        DataError: one does not say how large its image is.
    """
    found = [
        part
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if isinstance(part, Mapping) and part.get("type") == "image"
    ]
    for part in found:
        if not all(isinstance(part.get(side), int) and part[side] > 0 for side in ("width", "height")):
            raise DataError(
                "A message holds an image part without width and height. Give an agentrl.Image instead: the "
                "episode makes such parts of it."
            )
    return [dict(part) for part in found]


def decoded(picture: Picture) -> Any:
    """The picture for an image processor, as Pillow's image. It is a file that we wrote ourselves."""
    from PIL import Image

    with Image.open(io.BytesIO(picture.png), formats=("PNG",)) as image:
        return image.convert("RGB")


def digest_of(pixel_values: Any) -> str:
    """A fingerprint of pixel values ``[patches, values]``, as float32."""
    return hashlib.sha256(np.ascontiguousarray(pixel_values, dtype=np.float32).tobytes()).hexdigest()

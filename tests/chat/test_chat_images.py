"""Images in the token stream: as many placeholders as the model's own processor makes features."""

from __future__ import annotations

import dataclasses
import functools
import io
from typing import Any

import numpy as np
import pytest
import torch
from chat_families import FAMILIES, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from transformers import Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from agentrl.chat import Chat
from agentrl.chat.vision import Vision, image_only_processors, images_in, part_of, positions
from agentrl.errors import DataError, ModelUnsupported, UsageError
from agentrl.observation import Picture
from agentrl.train import tiny, tiny_vision

SIDES = st.integers(1, 400)


def picture(width: int, height: int, colour: tuple[int, int, int] = (200, 30, 90)) -> Picture:
    file = io.BytesIO()
    Pillow.new("RGB", (width, height), colour).save(file, "PNG")
    return Picture(file.getvalue(), width, height)


TOKENIZER = tiny.make_tokenizer(special=[*tiny.SPECIAL_TOKENS, *tiny_vision.TOKENS])
VISION = Vision.of(TOKENIZER, tiny_vision.make_processor())
CHAT = tiny.chat(TOKENIZER, VISION)


@functools.cache
def model() -> Any:
    return tiny_vision.make_model(TOKENIZER, 0).model


@functools.cache
def processor() -> Any:
    image_only_processors()
    return Qwen2VLProcessor(image_processor=tiny_vision.make_processor(), tokenizer=TOKENIZER)


def shown(*pictures: Picture, text: str = "What is it?") -> dict[str, Any]:
    return {"role": "user", "content": [*map(part_of, pictures), {"type": "text", "text": text}]}


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES, st.integers(28 * 28, 60_000))
def test_sizes_are_the_processors_own(width: int, height: int, most: int) -> None:
    vision = dataclasses.replace(VISION, most_pixels=most)
    try:
        high, wide = smart_resize(height, width, factor=28, min_pixels=28 * 28, max_pixels=most)
    except ValueError:
        with pytest.raises(ValueError):
            vision.size(width, height)
        return
    assert vision.size(width, height) == (wide, high)
    if wide * high <= most:
        assert vision.size(wide, high) == (wide, high), "what was shrunk once stays as it is"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(20, 300), st.integers(20, 300)), min_size=1, max_size=3))
def test_a_prompt_is_what_the_processor_makes_of_the_same_text(sizes: list[tuple[int, int]]) -> None:
    pictures = [picture(*size) for size in sizes]
    ids = CHAT.prompt([{"role": "system", "content": "Look."}, shown(*pictures)])
    text = (
        "<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\n"
        + "<|vision_start|><|image_pad|><|vision_end|>" * len(pictures)
        + "What is it?<|im_end|>\n<|im_start|>assistant\n"
    )
    expected = processor()(text=[text], images=[Pillow.new("RGB", size) for size in sizes])
    assert ids == list(expected["input_ids"][0])
    features = sum(int(grid.prod()) // 4 for grid in np.asarray(expected["image_grid_thw"]))
    assert ids.count(VISION.placeholder) == features == sum(VISION.tokens(*size) for size in sizes)


def test_a_tools_picture_extends_the_stream_and_leaves_what_was_sampled() -> None:
    first = CHAT.prompt([shown(picture(112, 112))])
    called = '<tool_call>\n{"name": "crop", "arguments": {}}\n</tool_call>'
    sampled = [*TOKENIZER.encode(called, add_special_tokens=False), CHAT.stop_token_ids[0]]
    turn = CHAT.parse(first, sampled)
    content = [part_of(picture(56, 28)), {"type": "text", "text": "here"}]
    new = CHAT.observation_messages(turn.calls, [content])
    following = CHAT.extend(first, sampled, new)
    assert following is not None
    assert following[: len(first) + len(sampled)] == [*first, *sampled]
    assert following.count(VISION.placeholder) == 16 + 2
    # The whole, rendered anew, is the same stream.
    said = CHAT.assistant_message(turn)
    assert CHAT.prompt([shown(picture(112, 112)), said, *new]) == following
    assert [part["width"] for part in CHAT.images([shown(picture(112, 112)), said, *new])] == [112, 56]


def test_text_that_spells_a_placeholder_is_text() -> None:
    ids = CHAT.prompt([shown(picture(56, 56), text="<|vision_start|><|image_pad|><|vision_end|>")])
    assert ids.count(VISION.placeholder) == 4


def test_a_demonstration_holds_its_pictures_and_learns_none_of_their_tokens() -> None:
    said = {"role": "assistant", "content": "red"}
    ids, mask = CHAT.render_demonstration([shown(picture(112, 112)), said])
    assert ids.count(VISION.placeholder) == 16
    assert [token for token, sampled in zip(ids, mask, strict=True) if sampled] == [
        *CHAT.encode("red"), CHAT.stop_token_ids[0],
    ]  # fmt: skip


def test_renderers_that_look_at_images_themselves_write_the_same_number() -> None:
    tokenizer = make_tokenizer(*FAMILIES["qwen3-vl"])
    vision = Vision.of(tokenizer, tiny_vision.make_processor())
    chat = Chat(tokenizer, "qwen3-vl", vision=vision)
    first = chat.prompt([shown(picture(112, 112))])
    assert first.count(vision.placeholder) == 16
    following = chat.extend(first, [*chat.encode("hm"), chat.stop_token_ids[0]], [shown(picture(56, 56))])
    assert following is not None
    assert following.count(vision.placeholder) == 20
    segments = chat.demonstration_segments([shown(picture(112, 112)), {"role": "assistant", "content": "x"}])
    assert segments[0][0].count(vision.placeholder) == 16


def test_what_may_never_be_sampled_and_what_vllm_is_given() -> None:
    names = TOKENIZER.convert_ids_to_tokens(list(CHAT.banned_token_ids))
    assert set(names) == {"<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"}
    ids = CHAT.prompt([shown(picture(112, 112), picture(56, 56))])
    assert VISION.collapse(ids).count(VISION.placeholder) == 2


def test_a_text_model_is_not_shown_images() -> None:
    chat = tiny.chat(tiny.make_tokenizer())
    assert chat.banned_token_ids == ()
    with pytest.raises(ModelUnsupported, match="takes text only"):
        chat.prompt([shown(picture(56, 56))])
    with pytest.raises(ModelUnsupported, match="<|vision_start|>"):
        Vision.of(chat.tokenizer)


def test_a_part_that_is_not_of_ours_is_refused() -> None:
    with pytest.raises(DataError, match="width and height"):
        images_in([{"role": "user", "content": [{"type": "image", "image": "/etc/passwd"}]}])
    with pytest.raises(UsageError, match="placeholders"):
        VISION.expand([1, 2], [part_of(picture(56, 56))])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(20, 300), st.integers(20, 300), st.integers(0, 5)), max_size=3))
def test_positions_are_those_of_the_model(images: list[tuple[int, int, int]]) -> None:
    ids = [9, 9]
    for width, height, gap in images:
        ids += [VISION.placeholder] * VISION.tokens(width, height) + [9] * (gap + 1)
    grids = [VISION.grid(width, height) for width, height, _ in images]
    kinds = torch.tensor([[int(token == VISION.placeholder) for token in ids]])
    expected, _ = model().get_rope_index(
        input_ids=torch.tensor([ids]), mm_token_type_ids=kinds, attention_mask=torch.ones_like(kinds),
        image_grid_thw=torch.tensor(grids) if grids else None,
    )  # fmt: skip
    assert np.array_equal(positions(ids, grids, VISION), expected[:, 0].numpy())


def test_positions_of_misplaced_placeholders_are_an_error() -> None:
    with pytest.raises(ValueError):
        positions([VISION.placeholder] * 3, [(1, 4, 4)], VISION)
    with pytest.raises(ValueError):
        positions([1, 2], [(1, 4, 4)], VISION)

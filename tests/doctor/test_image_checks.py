"""The doctor on a step in which images were shown: each planted fault is caught by its check."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest

from agentrl.chat.vision import Vision, positions
from agentrl.config import Algorithm
from agentrl.doctor import Row, examine_step

PAD = 5
VISION = Vision(placeholder=PAD, banned=(PAD,))
FEATURES, POSITIONS, PIXELS, AGREE = (
    "placeholders equal the features of the images",
    "positions are those of M-RoPE",
    "the trainer's pixel values are the engine's",
    "log-probs agree after images",
)
GRID = [1, 4, 4]


def row(number: int, *, images: int = 2) -> Row:
    """A prompt with an image of four features, a turn, perhaps another image from a tool, and a turn."""
    rng = np.random.default_rng(number)
    image = [3, *[PAD] * 4, 4]
    prompt = [10, *image, 11] if images else [10, 11]
    first, second = rng.integers(20, 500, 5).tolist(), rng.integers(20, 500, 4).tolist()
    seen = [12, *image, 13] if images > 1 else [12, 13]
    response = [*first, *seen, *second]
    mask = np.array([1] * 5 + [0] * len(seen) + [1] * 4)
    logprobs = mask * rng.uniform(-3, -0.1, len(mask)).astype(np.float32)
    pixels = [f"{number}-{image}" for image in range(images)]
    whole = [*prompt, *response]
    places = positions(whole, [GRID] * images, VISION)
    return Row(
        key=f"task_{number}_0",
        episode={"status": "finished", "reward": 0.0},
        ledger=[
            {"prompt_ids": prompt, "token_ids": first, "logprobs": logprobs[:5], "pixels": pixels[:1]},
            {"prompt_ids": [*prompt, *first, *seen], "token_ids": second, "logprobs": logprobs[-4:],
             "pixels": pixels},
        ],
        columns={
            "prompts": np.array(prompt), "responses": np.array(response), "response_mask": mask,
            "rm_scores": np.zeros(len(mask)), "rollout_log_probs": logprobs.astype(np.float32),
            "old_log_probs": logprobs.astype(np.float32), "advantages": np.zeros(len(mask)),
            "position_ids": np.concatenate([np.arange(len(whole))[None], places]),
        },
        grids=[list(GRID)] * images,
        pixels=pixels,
    )  # fmt: skip


def step() -> list[Row]:
    return [row(0), row(1, images=0), row(2, images=1)]


def failed(rows: list[Row]) -> set[str]:
    report = examine_step(rows, step=1, algorithm=Algorithm(), vision=VISION)
    return {check.name for check in report.checks if not check.passed}


def test_a_sound_step_passes() -> None:
    assert failed(step()) == set()
    assert failed([row(0, images=0)]) == set()


def lose_an_image(one: Row) -> None:
    one.grids.pop()


def merge_two_images(one: Row) -> None:
    """As many features in all, but of one image."""
    one.grids[:] = [[1, 8, 4]]


def sample_a_placeholder(one: Row) -> None:
    one.columns["responses"][2] = PAD


def count_like_text(one: Row) -> None:
    """Positions of a model without M-RoPE."""
    one.columns["position_ids"][1:] = one.columns["position_ids"][0]


def swap_rows_and_columns(one: Row) -> None:
    one.columns["position_ids"] = one.columns["position_ids"][[0, 1, 3, 2]]


def drop_the_text_positions(one: Row) -> None:
    one.columns["position_ids"] = one.columns["position_ids"][1:]


def swap_the_images(one: Row) -> None:
    one.pixels.reverse()


def blank_the_images(one: Row) -> None:
    one.pixels[:] = ["blank"] * len(one.pixels)


def blind_the_engine(one: Row) -> None:
    """As an engine whose normalisation is off: what is sampled after an image is a little less likely."""
    mask = one.columns["response_mask"]
    one.columns["old_log_probs"] = one.columns["old_log_probs"] - mask * np.float32(0.05)


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (lose_an_image, FEATURES),
        (merge_two_images, FEATURES),
        (sample_a_placeholder, FEATURES),
        (count_like_text, POSITIONS),
        (swap_rows_and_columns, POSITIONS),
        (drop_the_text_positions, POSITIONS),
        (swap_the_images, PIXELS),
        (blank_the_images, PIXELS),
        (blind_the_engine, AGREE),
    ],
)
def test_a_planted_fault_is_caught(plant: Callable[[Row], None], expected: str) -> None:
    rows = copy.deepcopy(step())
    plant(rows[0])
    assert expected in failed(rows)


def test_a_fault_that_drowns_among_text_is_caught_after_images() -> None:
    rows = [row(0), *(row(number, images=0) for number in range(1, 20))]
    blind_the_engine(rows[0])
    assert failed(rows) == {AGREE}

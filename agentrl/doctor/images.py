"""The checks of a step in which images were shown: that what was trained saw what the engine saw.

Legend: ``T`` tokens of a row, prompt and response together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from agentrl.chat.vision import Vision, positions
from agentrl.doctor.rows import Row, Wrong, by_episode, comparable, logprob_gaps, placed

GAP_TOLERANCE = 0.02
"""Largest mean of ``|trainer - engine|`` over the tokens sampled after an image, in nats."""


def placeholders_match(rows: Sequence[Row], vision: Vision) -> str:
    """In each row the placeholders are as many as the trainer has features, image by image."""
    images = features = 0
    for row in rows:
        tokens = _tokens(row)
        runs = _runs(tokens == vision.placeholder)
        expected = [int(np.prod(grid)) // vision.merge**2 for grid in row.grids]
        if runs != expected:
            raise Wrong(
                f"row {row.key}: placeholders stand in runs of {runs}; its images have {expected} features"
            )
        images, features = images + len(expected), features + sum(expected)
    return f"{features} placeholders for the features of {images} images"


def positions_match(rows: Sequence[Row], vision: Vision) -> str:
    """The trainer's positions are those of M-RoPE, worked out here from tokens and image sizes alone."""
    for row in rows:
        tokens, given = _tokens(row), row.columns["position_ids"]
        try:
            expected = positions(tokens.tolist(), row.grids, vision)
        except ValueError as problem:
            raise Wrong(f"row {row.key}: {problem}") from problem
        whole = np.concatenate([np.arange(len(tokens))[None], expected])
        if given.shape != whole.shape:
            raise Wrong(f"row {row.key}: positions have the shape {given.shape}, not {whole.shape}")
        wrong = np.flatnonzero((given != whole).any(axis=0))
        if wrong.size:
            raise Wrong(f"row {row.key}: {wrong.size} positions are wrong, the first at token {wrong[0]}")
    return "text, time, rows and columns as the model counts them"


def pixels_match(rows: Sequence[Row]) -> str:
    """The trainer's pixel values are those of the images that the engine was given, in their order."""
    images = 0
    for own in by_episode(rows).values():
        for row, spans in placed(own):
            for _, entry in spans:
                given = list(entry["pixels"])
                if row.pixels[: len(given)] != given:
                    raise Wrong(
                        f"row {row.key}: the engine was given {len(given)} images, and the trainer's pixel "
                        "values are not theirs"
                    )
            images += len(row.pixels)
    return f"{images} images are the same, value by value"


def logprobs_agree_after_images(
    rows: Sequence[Row], vision: Vision, recomputed: Collection[int] | None = None
) -> str:
    """Behind an image the trainer recomputes the engine's log-probs as well as anywhere.

    Args:
        recomputed: versions whose tokens can be compared; ``None``: all.
    """
    gaps: list[np.ndarray[Any, Any]] = []
    for row in rows:
        seen = np.flatnonzero(_tokens(row) == vision.placeholder)
        if seen.size:
            after = np.arange(len(row.columns["responses"])) + len(row.columns["prompts"]) > seen[0]
            gaps.append(logprob_gaps(row)[comparable(row, recomputed) & after])
    found = np.concatenate(gaps) if gaps else np.zeros(0)
    if not found.size:
        return "nothing that could be compared was sampled after an image"
    mean = float(found.mean())
    measured = f"|trainer - engine|: mean {mean:.2g} (tolerance {GAP_TOLERANCE:g}), {found.size} tokens"
    if not mean <= GAP_TOLERANCE:
        raise Wrong(measured)
    return measured


def _tokens(row: Row) -> np.ndarray[Any, Any]:
    return np.concatenate([row.columns["prompts"], row.columns["responses"]])


def _runs(marked: np.ndarray[Any, Any]) -> list[int]:
    """Lengths of the runs of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(np.int8), [0]])))
    return [int(end - start) for start, end in zip(edges[::2], edges[1::2], strict=True)]

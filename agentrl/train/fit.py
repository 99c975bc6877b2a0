"""Next-token prediction on the tokens that an expert sampled. For small models, on a CPU."""

from __future__ import annotations

import ctypes
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentrl.chat.vision import positions
from agentrl.train.demonstrate import Example

if TYPE_CHECKING:
    import torch

    from agentrl.chat.vision import Vision

RISE_STEPS = 30
MICRO_BATCHES = 4
THREADS = 2
"""A model this small gains nothing from more, and a fixed number makes its sums repeatable."""


def fit(
    model: Any,
    examples: Sequence[Example],
    *,
    vision: Vision | None = None,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    progress: Callable[[int, float], None],
) -> list[float]:
    """Train ``model`` in place with AdamW.

    Args:
        model: a causal language model of transformers, in float32.
        examples: drawn without replacement, over and over.
        vision: the image rules of a model that is shown images.
        steps: of the optimizer, ``batch_size`` rows each.
        learning_rate: its peak: it rises over the first 30 steps and falls to a twentieth along a cosine.
        seed: of the order of the batches.
        progress: told each finished step and its loss.

    Returns:
        The loss of each step: mean nats per sampled token.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    batches = _batches(examples, batch_size, random.Random(seed))
    losses: list[float] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(min(THREADS, os.cpu_count() or 1))
    model.train()
    try:
        with steady_heap():
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * schedule(step, steps)
                losses.append(_backward(model, next(batches), vision))
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                progress(step + 1, losses[-1])
    finally:
        torch.set_num_threads(threads)
        model.eval()
    return losses


def schedule(step: int, steps: int) -> float:
    """The share of the peak learning rate at ``step``, from 0, of ``steps``."""
    rise = min(1.0, (step + 1) / min(RISE_STEPS, steps))
    return rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _backward(model: Any, rows: Sequence[Example], vision: Vision | None) -> float:
    """Add the gradient of the rows' loss to the model's; returns the loss.

    The loss is the mean cross-entropy of all ``N`` sampled tokens. Rows of similar length go through
    the model together, which saves padding; a batch itself is drawn whatever the lengths, because
    length tells a direct answer from a call, and a batch of one kind alone would pull towards it.
    """
    import torch

    count = sum(sum(row.sampled[1:]) for row in rows)
    ordered = sorted(rows, key=lambda row: len(row.ids))
    size = math.ceil(len(ordered) / MICRO_BATCHES)
    total = 0.0
    for first in range(0, len(ordered), size):
        some = ordered[first : first + size]
        ids, sampled = _padded(some)
        # Padding is at the end, where causal attention lets no token that counts look.
        seen = {} if vision is None else _seen(some, ids.shape[1], vision)
        hidden = model.model(input_ids=ids, **seen).last_hidden_state  # [B, T, H]
        targets = sampled[:, 1:]
        logits = model.lm_head(hidden[:, :-1][targets])  # [N, V]
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][targets], reduction="sum") / count
        loss.backward()
        total += float(loss.detach())
    return total


def _batches(examples: Sequence[Example], size: int, rng: random.Random) -> Iterator[list[Example]]:
    """Endless batches; every example is drawn once before any is drawn again."""
    order: list[Example] = []
    while True:
        while len(order) < size:
            order += rng.sample(examples, len(examples))
        yield order[:size]
        order = order[size:]


def _padded(rows: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids, padded with 0, and whether each was sampled. ``[B, T], [B, T]``"""
    import torch

    longest = max(len(row.ids) for row in rows)
    all_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    all_sampled = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        all_ids[index, : len(row.ids)] = torch.tensor(row.ids)
        all_sampled[index, : len(row.ids)] = torch.tensor(row.sampled)
    return all_ids, all_sampled


def _seen(rows: Sequence[Example], length: int, vision: Vision) -> dict[str, torch.Tensor]:
    """Positions, padded with 0, and the pixels of all pictures. ``[3, B, T], [patches, values]``"""
    import torch

    places = torch.zeros(3, len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        grids = [vision.grid(picture.width, picture.height) for picture in row.pictures]
        places[:, index, : len(row.ids)] = torch.from_numpy(positions(row.ids, grids, vision))
    pictures = [picture for row in rows for picture in row.pictures]
    return {"position_ids": places, **(vision.pixels(pictures) if pictures else {})}


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_DEFAULT_TRIM, _DEFAULT_MMAP_MAX = 128 * 1024, 65536


@contextmanager
def steady_heap() -> Iterator[None]:
    """Let glibc keep freed memory while a training runs.

    By default it hands every large tensor's pages back as soon as the tensor dies, and the kernel
    zeroes new ones for the next: on virtual machines that can take ten times as long as the
    arithmetic. Elsewhere than on glibc this does nothing.
    """
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"):
        yield
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        mallopt(_M_TRIM_THRESHOLD, _DEFAULT_TRIM)

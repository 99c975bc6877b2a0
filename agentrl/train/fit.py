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

from agentrl.train.demonstrate import Example

if TYPE_CHECKING:
    import torch

RISE_STEPS = 30
THREADS = 2
"""A model this small gains nothing from more, and a fixed number makes its sums repeatable."""


def fit(
    model: Any,
    examples: Sequence[Example],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    progress: Callable[[int, float], None],
) -> list[float]:
    """Train ``model`` in place with AdamW.

    Args:
        model: a causal language model of transformers, in float32.
        examples: drawn without replacement, over and over; those of similar length share a batch.
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
                loss = _loss(model, next(batches))
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
                progress(step + 1, losses[-1])
    finally:
        torch.set_num_threads(threads)
        model.eval()
    return losses


def schedule(step: int, steps: int) -> float:
    """The share of the peak learning rate at ``step``, from 0, of ``steps``."""
    rise = min(1.0, (step + 1) / min(RISE_STEPS, steps))
    return rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of the ``N`` sampled tokens; only their logits are computed."""
    import torch

    ids, sampled = batch
    # Rows are padded at their ends, where causal attention lets no token that counts look.
    hidden = model.model(input_ids=ids).last_hidden_state  # [B, T, H]
    counted = sampled[:, 1:]
    logits = model.lm_head(hidden[:, :-1][counted])  # [N, V]
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][counted])


def _batches(
    examples: Sequence[Example], size: int, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches, padded with token 0: ``[B, T]`` ids and ``[B, T]`` whether sampled."""
    size = min(size, len(examples))
    while True:
        order = list(range(len(examples)))
        rng.shuffle(order)
        chunk = 8 * size  # sorted within so many rows, little is spent on padding and batches stay mixed
        batches = []
        for first in range(0, len(order) - size + 1, chunk):
            rows = sorted(order[first : first + chunk], key=lambda index: len(examples[index][0]))
            batches += [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
        rng.shuffle(batches)
        for rows in batches:
            yield _padded([examples[index] for index in rows])


def _padded(rows: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    longest = max(len(ids) for ids, _ in rows)
    all_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    all_sampled = torch.zeros(len(rows), longest, dtype=torch.bool)
    for row, (ids, sampled) in enumerate(rows):
        all_ids[row, : len(ids)] = torch.tensor(ids)
        all_sampled[row, : len(ids)] = torch.tensor(sampled)
    return all_ids, all_sampled


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

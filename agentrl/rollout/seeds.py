"""Seeds that depend on what is played, never on when or where."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed in ``[0, 2**31)`` from numbers and names: the same on every machine."""
    digest = hashlib.sha256("\0".join(f"{type(part).__name__}:{part}" for part in parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def episode_seed(run_seed: int, task_id: str, index: int) -> int:
    """The seed of the ``index``-th episode of a task in a run."""
    return derive_seed(run_seed, task_id, index)

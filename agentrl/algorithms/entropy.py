"""Entropy of the policy per turn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agentrl.algorithms.batch import Tokens
from agentrl.algorithms.scan import Floats


def turn_entropy(entropy: npt.ArrayLike, tokens: Tokens) -> Floats:
    """The mean over each turn's tokens, in nats (DART's entropy of a step). ``[N, T]`` to ``[K]``"""
    flat = np.asarray(entropy, dtype=np.float64)[tokens.row, tokens.column]
    return np.asarray(tokens.per_turn(flat) / np.maximum(tokens.turn_lengths(), 1))

"""Which share each token has in the loss.

A share is made once for the whole batch, and the loss is the sum of shares times losses: so it does not
depend on how the batch is split into micro-batches or over ranks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agentrl.algorithms.batch import Batch
from agentrl.algorithms.spec import Aggregation


def token_shares(batch: Batch, how: Aggregation, *, horizon: int | None = None) -> npt.NDArray[np.float32]:
    """The share of each token that the mask lets count. They sum to 1, save with the three kinds of sums.

    - ``token``: all tokens alike (DAPO).
    - ``sequence``: rows alike (GRPO); ``episode``: episodes alike, where one has several rows.
    - ``prompt``: a prompt's tokens alike, prompts alike (ScaleRL).
    - ``action``: episodes alike, in an episode turns, in a turn tokens (WebAgent-R1's triple mean).
    - ``turn``: turns alike, whosever they are (DART, whose rows are single turns).
    - ``sequence_sum``: one over the number of rows; ``turn_sum``: over that of turns (ArCHer); ``sum_norm``:
      ``sequence_sum`` over the horizon (Dr. GRPO).

    Args:
        batch: the whole step's rows, or what one optimizer update is made of.
        how: which.
        horizon: of ``sum_norm``; ``how.horizon`` goes first.

    Returns:
        ``[N, T]``, 0 where the mask is 0. A row, episode or prompt without tokens counts nowhere.

    Raises:
        ValueError: ``sum_norm`` without a horizon.
    """
    tokens = batch.tokens
    count = len(tokens.row)
    if count == 0:
        return np.zeros(batch.mask.shape, dtype=np.float32)
    if how.kind == "token":
        return tokens.placed(np.full(count, 1.0 / count))
    if how.kind in ("sequence_sum", "sum_norm"):
        divisor = float(np.count_nonzero(np.bincount(tokens.row)))
        if how.kind == "sum_norm":
            divisor *= _horizon(how.horizon or horizon)
        return tokens.placed(np.full(count, 1.0 / divisor))
    if how.kind == "turn_sum":
        return tokens.placed(np.full(count, 1.0 / len(tokens.starts)))
    if how.kind == "action":
        turns = np.bincount(tokens.turn_episode)
        of_turn = 1.0 / (len(turns) * turns[tokens.turn_episode] * tokens.turn_lengths())
        return tokens.placed(of_turn[tokens.turn])
    units = {
        "sequence": tokens.row, "episode": tokens.episode, "prompt": tokens.group, "turn": tokens.turn
    }  # fmt: skip
    unit = units[how.kind]
    lengths = np.bincount(unit)
    return tokens.placed((1.0 / (np.count_nonzero(lengths) * np.maximum(lengths, 1)))[unit])


def _horizon(horizon: int | None) -> int:
    if horizon is None:
        raise ValueError("aggregation sum_norm divides by a horizon, and none is set")
    return horizon

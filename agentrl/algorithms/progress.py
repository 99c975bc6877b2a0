"""SPA-RL: what each step contributed, learned so that the contributions add up to the outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agentrl.errors import DefinitionError

if TYPE_CHECKING:
    import torch

Estimator = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Features of an episode's turns, ``[T, F]``, to contributions, ``[T]``."""


def attribution_loss(contributions: Any, mask: Any, outcomes: Any) -> Any:
    """``mean over episodes of (sum_t c_t - R)^2`` (SPA-RL, train_our_progress_model.py:50-106).

    Args:
        contributions: ``[N, T]``, of numpy or torch.
        mask: ``[N, T]``, 1 where there is a turn.
        outcomes: ``[N]``, rewards of the episodes.
    """
    return (((contributions * mask).sum(-1) - outcomes) ** 2).mean()


def step_rewards(
    contributions: Sequence[float], executed: Sequence[bool], *, alpha: float = 1.0, beta: float = 0.5
) -> NDArray[np.float64]:
    """``r_t = alpha c_t + beta g_t``, ``[T]``; ``g_t`` is 1 where the environment carried the action out.

    The paper's coefficients were not found; 1 and .5 are the released code's.

    Raises:
        DefinitionError: the two have different lengths.
    """
    if len(contributions) != len(executed):
        raise DefinitionError(f"{len(contributions)} contributions do not fit {len(executed)} actions.")
    return alpha * np.asarray(contributions, dtype=np.float64) + beta * np.asarray(executed, dtype=np.float64)


def loo_outcome(rewards: Sequence[float]) -> NDArray[np.float64]:
    """Each episode's reward minus the mean of its group's others, ``[K]``: what SPA-RL's released
    script has in the place of contributions, for every turn alike.

    Raises:
        DefinitionError: there is one episode only.
    """
    outcomes = np.asarray(rewards, dtype=np.float64)
    if outcomes.size < 2:
        raise DefinitionError("An episode is compared with the others of its group, and there are none.")
    return np.asarray(outcomes - (outcomes.sum() - outcomes) / (outcomes.size - 1))


def fit(
    model: torch.nn.Module,
    episodes: Sequence[tuple[NDArray[np.float64], float]],
    *,
    epochs: int = 200,
    rate: float = 1e-2,
) -> list[float]:
    """Train an estimator on whole episodes; returns the loss before each epoch.

    Args:
        model: ``[N, T, F]`` to ``[N, T]``; changed in place. Padding follows the turns.
        episodes: (features ``[T, F]``, outcome) of each.
        epochs, rate: passes over all episodes at once, with Adam.

    Raises:
        DefinitionError: there is no episode.
    """
    import torch

    if not episodes:
        raise DefinitionError("A progress estimator is fitted to episodes, and there are none.")
    lengths = [len(features) for features, _ in episodes]
    padded = torch.zeros(len(episodes), max(lengths), episodes[0][0].shape[1])
    mask = torch.zeros(len(episodes), max(lengths))
    for row, (features, _) in enumerate(episodes):
        padded[row, : lengths[row]] = torch.as_tensor(features, dtype=torch.float32)
        mask[row, : lengths[row]] = 1.0
    outcomes = torch.tensor([outcome for _, outcome in episodes], dtype=torch.float32)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    losses = []
    for _ in range(epochs):
        loss = attribution_loss(model(padded), mask, outcomes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses

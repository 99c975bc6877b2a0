"""ArCHer's critic over utterances: targets of two Q and V networks, Polyak averages, a turn's advantage.

Arrays are numpy's or torch's, all of shape ``[N]``: one number per turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from agentrl.errors import DefinitionError

if TYPE_CHECKING:
    import torch


def q_target(reward: Any, done: Any, next_value: Any, *, discount: float = 0.95) -> Any:
    """``r + gamma (1 - done) V(s')`` with the target network's V (ArCHer, trainer.py:52-80).

    What the network says of the state after the last is not looked at, not even if it is no number.
    """
    import numpy as np

    if hasattr(next_value, "detach"):
        import torch

        ended = torch.as_tensor(done, dtype=torch.bool, device=next_value.device)
        following = torch.where(ended, torch.zeros_like(next_value), next_value.detach())
        return torch.as_tensor(reward, device=next_value.device) + discount * following
    following = np.where(np.asarray(done, dtype=bool), 0.0, next_value)
    return np.asarray(reward, dtype=np.float64) + discount * following


def advantage(q: tuple[Any, Any], v: tuple[Any, Any]) -> Any:
    """``min(Q1, Q2) - min(V1, V2)``: of the turn, for all its tokens."""
    if hasattr(q[0], "detach"):
        import torch

        return (torch.minimum(*q) - torch.minimum(*v)).detach()
    import numpy as np

    return np.minimum(*q) - np.minimum(*v)


def critic_loss(
    q: tuple[torch.Tensor, torch.Tensor],
    v: tuple[torch.Tensor, torch.Tensor],
    q_targets: tuple[torch.Tensor, torch.Tensor],
    v_targets: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """The sum of four mean squared errors. No gradient reaches a target.

    ``V_i``'s target is the target network's ``Q_i(s, a)`` of an action that the current actor took.
    """
    errors = zip((*q, *v), (*q_targets, *v_targets), strict=True)
    losses = [((value - target.detach()) ** 2).mean() for value, target in errors]
    return losses[0] + losses[1] + losses[2] + losses[3]


def polyak(target: Iterable[torch.Tensor], online: Iterable[torch.Tensor], *, rate: float = 0.1) -> None:
    """Move target parameters towards the online ones in place: ``(1 - tau) target + tau online``.

    Raises:
        DefinitionError: the rate lies outside 0 … 1.
    """
    import torch

    if not 0 <= rate <= 1:
        raise DefinitionError(f"rate={rate} must lie within 0 and 1.")
    with torch.no_grad():
        for slow, fast in zip(target, online, strict=True):
            slow.lerp_(fast, rate)

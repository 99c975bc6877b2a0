"""Rollouts chosen from a pool: DART's newest versions and stored successes, TRPO-traj's injection.

TRPO here is the trajectory-aware relative policy optimisation of Mobile-Agent-v3, not trust regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from agentrl.algorithms import staleness
from agentrl.errors import DefinitionError


@dataclass(frozen=True)
class Rollout:
    """What the pool's rules look at.

    Args:
        id: unique.
        task: its task's id.
        reward: of the episode; above 0 is a success.
        version: of the policy that made it.
        order: counts up with every rollout stored.
        used: whether it was trained on already.
    """

    id: str
    task: str
    reward: float
    version: int
    order: int
    used: bool = False


def newest_versions(rollouts: Sequence[Rollout], versions: int = 2) -> list[Rollout]:
    """Unused rollouts of the newest ``versions`` policies that are in the pool (DART: 2)."""
    new = staleness.newest_versions([rollout.version for rollout in rollouts], versions)
    return [rollout for rollout, is_new in zip(rollouts, new, strict=True) if is_new and not rollout.used]


def dart_group(
    stored: Sequence[Rollout], task: str, *, size: int = 8, versions: int = 2
) -> list[Rollout] | None:
    """A task's group for training, or ``None`` if there is none yet (DART, trainable_filter.py:41-130).

    The group must be full and its mean reward below 1. If all failed, the oldest is replaced by the task's
    newest success of any version; without one there is no group. Of more than ``size`` the newest stay,
    with at least one success and one failure.

    Args:
        stored: the whole pool.
    """
    fresh = sorted(
        (rollout for rollout in newest_versions(stored, versions) if rollout.task == task),
        key=lambda rollout: rollout.order,
    )
    if len(fresh) < size or sum(rollout.reward for rollout in fresh) / len(fresh) >= 1:
        return None
    if any(rollout.reward > 0 for rollout in fresh):
        return _trimmed(fresh, size)
    successes = [rollout for rollout in stored if rollout.task == task and rollout.reward > 0]
    if not successes:
        return None
    return [max(successes, key=lambda rollout: rollout.order), *fresh[-size:][1:]]


def _trimmed(fresh: Sequence[Rollout], size: int) -> list[Rollout]:
    if size < 2:
        raise DefinitionError(f"size={size}: a group with a success and a failure has at least 2.")
    kept = list(fresh[-size:])
    for wanted in (True, False):
        if not any((rollout.reward > 0) is wanted for rollout in kept):
            lost = [rollout for rollout in fresh[:-size] if (rollout.reward > 0) is wanted]
            if lost:
                kept[0] = lost[-1]
    return kept


def inject_success(group: Sequence[Rollout], success: Rollout | None, rng: Random) -> list[Rollout] | None:
    """If all of a group failed, one at random gives way to a stored success; ``None`` if there is none.

    Inferred: Mobile-Agent-v3 describes the rule in words only.
    """
    if any(rollout.reward > 0 for rollout in group):
        return list(group)
    if success is None:
        return None
    mixed = list(group)
    mixed[rng.randrange(len(mixed))] = success
    return mixed

"""verl#7244: baselines of turns where the policy decides when an episode ends.

A tiny environment, solved exactly: at each of up to three turns the policy goes on with probability
``sigmoid(theta_t)`` or stops. A turn pays a reward that depends on what was chosen. Every group of three
episodes is enumerated with its probability, so expected gradients are exact, without sampling.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from algorithm_numbers import spec, turns

from agentrl.algorithms.advantages import compute
from agentrl.algorithms.batch import Batch

THETA = np.array([0.4, -0.3, 0.2])
GO = 1 / (1 + np.exp(-THETA))
STOP_REWARD, GO_REWARD = [0.2, 0.9, 0.1], [0.5, 0.3, 1.0]
GROUP = 3

Choices = tuple[int, ...]
EPISODES: list[Choices] = [(0,), (1, 0), (1, 1, 0), (1, 1, 1)]


def probability(choices: Choices) -> float:
    return float(np.prod([GO[t] if go else 1 - GO[t] for t, go in enumerate(choices)]))


def rewards(choices: Choices) -> list[float]:
    return [GO_REWARD[t] if go else STOP_REWARD[t] for t, go in enumerate(choices)]


def score(choices: Choices, advantages: Sequence[float] | np.ndarray) -> np.ndarray:
    """Sum over turns of advantage times the gradient of the choice's log-probability."""
    gradient = np.zeros(3)
    for t, (go, advantage) in enumerate(zip(choices, advantages, strict=True)):
        gradient[t] += advantage * ((1 - GO[t]) if go else -GO[t])
    return gradient


TRUE: np.ndarray = np.sum(
    [probability(e) * sum(rewards(e)) * score(e, [1.0] * len(e)) for e in EPISODES], axis=0
)


def expected_gradient(estimator: Callable[[Batch], np.ndarray]) -> np.ndarray:
    total = np.zeros(3)
    for group in itertools.product(EPISODES, repeat=GROUP):
        batch = turns([[1] * len(e) for e in group], [rewards(e) for e in group])
        advantages = estimator(batch)
        scores = [score(e, advantages[i, : len(e)]) for i, e in enumerate(group)]
        gradient = np.sum(scores, axis=0) / GROUP
        total += np.prod([probability(e) for e in group]) * gradient
    return total


def of(level: str, baseline: str) -> np.ndarray:
    algorithm = spec(advantage={"level": level, "baseline": baseline})
    return expected_gradient(lambda batch: compute(batch, algorithm).advantages)


def reward_by_reward(batch: Batch) -> np.ndarray:
    """The construction that the issue warns of: each later reward less the mean of its turn index, summed."""
    rewards_NT, mask = np.asarray(batch.rewards), batch.mask
    means = np.where(mask, rewards_NT, 0).sum(0) / np.maximum(mask.sum(0), 1)
    centred = np.where(mask, rewards_NT - means, 0)
    return np.asarray(centred[:, ::-1].cumsum(1)[:, ::-1])


def test_the_true_gradient_is_that_of_the_expected_return() -> None:
    def value(theta: np.ndarray) -> float:
        go = 1 / (1 + np.exp(-theta))
        chance = [np.prod([go[t] if a else 1 - go[t] for t, a in enumerate(e)]) for e in EPISODES]
        return float(sum(p * sum(rewards(e)) for p, e in zip(chance, EPISODES, strict=True)))

    steps = np.eye(3) * 1e-6
    differences = [(value(THETA + s) - value(THETA - s)) / 2e-6 for s in steps]
    assert pytest.approx(differences, abs=1e-8) == TRUE


@pytest.mark.parametrize("level", ["episode", "turn", "step", "token"])
def test_leave_one_out_is_unbiased_at_every_level(level: str) -> None:
    assert of(level, "leave_one_out") == pytest.approx(TRUE, abs=1e-7)


@pytest.mark.parametrize("level", ["episode", "turn", "step"])
def test_so_is_no_baseline_at_all(level: str) -> None:
    assert of(level, "none") == pytest.approx(TRUE, abs=1e-7)


def test_the_mean_of_episodes_only_shortens_the_gradient() -> None:
    assert of("episode", "mean") == pytest.approx(TRUE * (1 - 1 / GROUP), abs=1e-7)


def test_the_mean_at_a_step_shortens_each_turns_gradient_by_its_own_factor() -> None:
    """``1 - 1/m`` over how many of the group got as far; one that got there alone keeps its whole return."""
    ratio = of("step", "mean") / TRUE
    assert ratio[0] == pytest.approx(1 - 1 / GROUP)
    assert 0 < ratio[1] < 1 and 0 < ratio[2] < 1.0 + 1e-9
    assert ratio[1] != pytest.approx(ratio[0], abs=1e-3)


def test_the_mean_of_all_turns_of_a_group_is_biased() -> None:
    assert np.abs(_direction(of("turn", "mean")) - _direction(TRUE)).max() > 0.01


def test_means_of_turn_indices_reward_by_reward_are_biased_against_going_on() -> None:
    """Each episode that goes on pays another baseline, so the first turn's gradient to go on is too small."""
    biased = expected_gradient(reward_by_reward)
    assert np.abs(_direction(biased) - _direction(TRUE)).max() > 0.05
    assert biased[0] < TRUE[0] * (1 - 1 / GROUP)


def _direction(gradient: np.ndarray) -> np.ndarray:
    return np.asarray(gradient / np.linalg.norm(gradient))

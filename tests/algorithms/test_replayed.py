"""Baselines and pools for episodes that are used again."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from agentrl.algorithms.pbt import Hyper, evolve, exploit, explore, replay
from agentrl.algorithms.pool import Rollout, dart_group, inject_success, newest_versions
from agentrl.algorithms.recalibrate import decayed, recalibrated
from agentrl.algorithms.running import RunningPercentile
from agentrl.errors import DefinitionError


def test_recalibrated_advantages() -> None:
    baseline = RunningPercentile(5)
    baseline.add([9.0, 0.2, 0.5, 0.5, 0.75, 1.0])  # the first falls out of the window
    assert baseline.value == pytest.approx(0.5)
    advantages, kept = recalibrated([1, 0.4, 0.6, 0], 0.5)
    assert advantages == pytest.approx([0.5, -0.1, 0.1, -0.5]) and np.flatnonzero(kept).tolist() == [0, 2]
    assert decayed([1, -2], 0.5).tolist() == [0.5, -1]


def rollouts(rewards, version=5, start=0):
    return [Rollout(f"r{start + i}", "t", r, version, start + i) for i, r in enumerate(rewards)]


def advantages(group, ddof):
    rewards = np.array([rollout.reward for rollout in group])
    return (rewards - rewards.mean()) / (rewards.std(ddof=ddof) + 1e-6)


def test_darts_pool_replaces_the_oldest_failure() -> None:
    success = Rollout("old", "t", 1.0, 1, -1)
    stored = [Rollout("older", "t", 1.0, 1, -2), success, *rollouts([0] * 8)]
    group = dart_group(stored, "t")
    assert group is not None and [r.id for r in group] == ["old", *[f"r{i}" for i in range(1, 8)]]
    assert advantages(group, 1) == pytest.approx([2.474867] + [-0.353552] * 7, abs=2e-6)
    assert dart_group(rollouts([0] * 8), "t") is None
    assert dart_group(rollouts([1] * 8), "t") is None
    assert dart_group(rollouts([1] + [0] * 6), "t") is None
    trimmed = dart_group(rollouts([1] + [0] * 9), "t")
    assert trimmed is not None and len(trimmed) == 8 and sum(r.reward for r in trimmed) == 1


def test_only_the_newest_versions_count() -> None:
    stored = [*rollouts([0], 1), *rollouts([0], 3, 1), *rollouts([0], 4, 2)]
    assert [r.version for r in newest_versions(stored)] == [3, 4]
    used = Rollout("u", "t", 0, 4, 9, used=True)
    assert used not in newest_versions([*stored, used])


def test_trajectory_aware_injection() -> None:
    failed, success = rollouts([0] * 4), Rollout("s", "t", 1.0, 0, 0)
    mixed = inject_success(failed, success, Random(0))
    assert mixed is not None
    assert sorted(advantages(mixed, 0)) == pytest.approx([-0.577349] * 3 + [1.732047], abs=2e-6)
    assert inject_success(failed, None, Random(0)) is None
    partly = rollouts([1, 0])
    assert inject_success(partly, success, Random(0)) == partly


SPACE = {"lr": Hyper(1e-7, 1e-5), "n": Hyper(2, 8, whole=True)}


def test_truncation_selection() -> None:
    scores = [i / 10 for i in range(1, 11)]
    for seed in range(20):
        copied = exploit(scores, Random(seed))
        assert set(copied) == {0, 1} and set(copied.values()) <= {8, 9}
    assert set(exploit([4, 3, 2, 1], Random(0))) == {3}
    seen = {explore({"lr": 1e-6, "n": 5}, SPACE, Random(s))["lr"] for s in range(20)}
    assert sorted(seen) == pytest.approx([8e-7, 1.2e-6])
    assert explore({"lr": 1e-5, "n": 8}, SPACE, Random(1), factors=[1.2]) == {"lr": 1e-5, "n": 8.0}
    with pytest.raises(DefinitionError):
        exploit([1, float("nan")], Random(0))


def test_the_log_gives_the_schedule_back() -> None:
    rng = Random(3)
    start = [{"lr": 1e-6 * (i + 1), "n": 4.0} for i in range(5)]
    now, log = [dict(h) for h in start], []
    for step in range(20, 200, 20):
        events = evolve(step, [rng.random() for _ in now], now, SPACE, rng)
        for event in events:
            now[event.member] = dict(event.new)
        log += events
    schedules = replay(start, log)
    assert [dict(own[-1][1]) for own in schedules] == now
    with pytest.raises(DefinitionError):
        replay(start, log[::-1])

"""The sigmoid of reward against compute, and labels nobody waits for."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from agentrl.algorithms.intrinsic import Intrinsic
from agentrl.algorithms.scaling import Sigmoid, ceiling_interval, fit
from agentrl.errors import ConfigError, DataError

TRUE = Sigmoid(0.3, 0.61, 2.0, 2000.0)
COMPUTE = np.geomspace(200, 1e5, 30)


def test_the_sigmoids_values() -> None:
    values = TRUE.at(np.array([500.0, 2000, 8000, 1e5]))
    assert values == pytest.approx([0.318235, 0.455, 0.591765, 0.609876], abs=1e-6)


def test_a_fit_finds_the_curve_that_made_the_points() -> None:
    found = fit(COMPUTE.tolist(), TRUE.at(COMPUTE).tolist(), start=0.3)
    assert found.ceiling == pytest.approx(0.61, abs=1e-3)
    assert found.slope == pytest.approx(2.0, abs=1e-3)
    assert found.middle == pytest.approx(2000, rel=1e-3)


def test_a_start_that_was_not_measured_is_found_too() -> None:
    found = fit(COMPUTE.tolist(), TRUE.at(COMPUTE).tolist())
    assert [found.start, found.ceiling] == pytest.approx([0.3, 0.61], abs=1e-3)
    assert [found.slope, found.middle / 1000] == pytest.approx([2.0, 2.0], abs=2e-3)


def test_the_ceilings_interval_holds_it() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, len(COMPUTE))
    low, high = ceiling_interval(COMPUTE.tolist(), (TRUE.at(COMPUTE) + noise).tolist(), start=0.3, samples=40)
    assert low < 0.61 < high and high - low < 0.05


@pytest.mark.parametrize(
    ("costs", "rewards"), [([1, 2, 3], [0, 0, 0]), ([0, 1, 2, 3], [0] * 4), ([1] * 5, [0] * 5)]
)
def test_too_little_to_fit(costs, rewards) -> None:
    with pytest.raises(DataError):
        fit(costs, rewards, start=0.0)


async def test_labels_come_later_and_once() -> None:
    asked, go = [], asyncio.Event()

    async def judge(text):
        asked.append(text)
        await go.wait()
        if text == "broken":
            raise OSError("gone")
        return None if text == "odd" else 0.5

    labels = Intrinsic(judge, workers=2, queue=3, cache=1)
    assert [labels.label(text) for text in ("new", "new", "odd", "broken", "too many")] == [None] * 5
    go.set()
    await labels.drained()
    assert sorted(asked) == ["broken", "new", "odd"]
    assert (labels.counts.missing, labels.counts.dropped, labels.counts.failed) == (5, 1, 2)
    assert labels.label("new") == 0.5
    labels.label("other")
    await labels.drained()
    assert labels.label("other") == 0.5 and labels.label("new") is None  # the cache holds one
    await labels.drained()


async def test_what_is_being_judged_is_not_asked_for_again() -> None:
    asked, go = [], asyncio.Event()

    async def judge(text):
        asked.append(text)
        await go.wait()
        return 1.0

    labels = Intrinsic(judge, workers=1)
    labels.label("slow")
    await asyncio.sleep(0)
    assert asked == ["slow"] and labels.label("slow") is None
    go.set()
    await labels.drained()
    assert asked == ["slow"] and labels.label("slow") == 1.0


async def test_a_judge_that_cannot_be_asked_at_all_is_told() -> None:
    async def judge(text):
        raise ConfigError("the key is wrong")

    labels = Intrinsic(judge)
    labels.label("new")
    await labels.drained()
    with pytest.raises(ConfigError, match="the key is wrong"):
        labels.label("other")


async def test_who_can_wait_gets_the_label_if_it_comes_in_time() -> None:
    go = asyncio.Event()

    async def judge(text):
        await go.wait()
        return 0.5

    labels = Intrinsic(judge, workers=1, queue=1)
    assert await labels.label_within("new", 0.0) is None
    assert await labels.label_within("new", 0.01) is None
    asked = [asyncio.create_task(labels.label_within(text, 30)) for text in ("new", "other", "dropped")]
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*asked) == [0.5, 0.5, None]


async def test_a_text_that_comes_when_the_last_worker_ends_is_judged_too() -> None:
    async def judge(text):
        return 1.0

    labels = Intrinsic(judge, workers=1)

    async def next_one(text: str, follower: str) -> None:
        await labels.label_within(text, 30)
        assert labels.label(follower) is None

    await asyncio.gather(next_one("a", "b"))
    await asyncio.wait_for(labels.drained(), 5)
    assert labels.label("b") == 1.0

"""States compared with what was wanted of them, and values that are kept."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.rewards.memo import Memo
from agentrl.rewards.state import changes, compare, facts

leaves = st.integers(0, 3) | st.text(max_size=2) | st.lists(st.integers(0, 2), max_size=2)
states = st.recursive(
    st.dictionaries(st.sampled_from("abcd"), leaves, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("wxyz"), inner, max_size=3),
    max_leaves=8,
)


def test_facts_are_the_leaves_by_path() -> None:
    state = {"orders": {"12": {"status": "open", "items": ["a", "b"], "note": None}}, "empty": {}}
    assert facts(state) == {"orders.12.status": "open", "orders.12.items": ["a", "b"]}


def test_what_is_wanted_missing_and_done_beside() -> None:
    start = {"a": 1, "b": 2, "c": 3}
    wanted = {"a": 9, "b": None, "d": 4}
    assert compare(start, {"a": 9, "c": 3, "d": 4}, wanted).reached
    half = compare(start, {"a": 9, "c": 3}, wanted)
    assert (half.missing, half.collateral, half.reached) == (("d",), (), False)
    assert half.share == pytest.approx(2 / 3)
    spoilt = compare(start, {"a": 9, "d": 4, "c": 0}, wanted)
    assert (spoilt.missing, spoilt.collateral, spoilt.share) == ((), ("c",), 0.0)
    assert compare(start, start, wanted).share == 0.0


@settings(max_examples=50, deadline=None)
@given(states, states)
def test_changes_lead_from_one_state_to_the_other_and_nowhere_else(start: Any, end: Any) -> None:
    first, last = facts(start), facts(end)
    wanted = changes(first, last)
    assert compare(first, last, wanted).reached
    assert compare(first, first, wanted).reached == (not wanted)
    assert facts(copy.deepcopy(start)) == first and changes(first, first) == {}


async def test_what_is_asked_for_at_once_is_made_once_and_the_oldest_goes() -> None:
    memo, made, gate = Memo[str](2), [], asyncio.Event()

    async def make(key: str) -> str:
        made.append(key)
        await gate.wait()
        return key.upper()

    asking = [asyncio.ensure_future(memo.get("a", lambda: make("a"))) for _ in range(5)]
    gate.set()
    assert await asyncio.gather(*asking) == ["A"] * 5 and made == ["a"]
    for key in ("b", "a", "c", "a", "b"):  # c takes the place of b, and b that of c
        assert await memo.get(key, lambda key=key: make(key)) == key.upper()  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"] and len(memo) == 2


async def test_failures_are_not_kept_and_places_are_few() -> None:
    memo, under_way, most = Memo[int](10, at_once=2), 0, 0

    async def make(value: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        if value < 0:
            raise ValueError(value)
        return value

    assert await asyncio.gather(*(memo.get(str(n), lambda n=n: make(n)) for n in range(6))) == list(range(6))  # type: ignore[misc]
    assert most == 2
    with pytest.raises(ValueError):
        await memo.get("x", lambda: make(-1))
    assert await memo.get("x", lambda: make(1)) == 1

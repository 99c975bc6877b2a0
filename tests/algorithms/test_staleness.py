"""Staleness: the published rules on their worked numbers, and the bound under whatever may happen."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.algorithms.staleness import (
    DeferredSwap,
    StalenessGate,
    capacity,
    newest_versions,
    oldest_version,
)


def test_areals_worked_numbers() -> None:
    states = [(0, 0, 0), (0, 12, 6), (0, 14, 6), (1, 14, 6), (3, 16, 7)]
    free = [capacity(v, accepted, running, batch=4, eta=4, most_running=8) for v, accepted, running in states]
    assert free == [8, 2, 0, 2, 1]


@given(st.integers(0, 50), st.integers(1, 16), st.integers(0, 8))
def test_the_rule_is_the_papers_inequality(version: int, batch: int, eta: int) -> None:
    most = capacity(version, 0, 0, batch=batch, eta=eta)
    assert (most - 1) // batch <= version + eta < most // batch


def test_only_the_newest_versions_that_exist_are_used() -> None:
    assert newest_versions([3, 7, 5, 7, 3], keep=2) == [False, True, True, True, False]
    assert newest_versions([4], keep=2) == [True]
    assert newest_versions([], keep=2) == []
    with pytest.raises(ValueError, match="keep=0"):
        newest_versions([1], keep=0)


def test_a_swap_may_wait_for_k_versions_and_skips_what_was_staged_before() -> None:
    worker = DeferredSwap(serving=3, k=1)
    assert not worker.offer(4) and worker.serving == 3
    assert worker.offer(5) and worker.due
    assert worker.swap() == 5 and not worker.due
    assert not worker.offer(4), "older weights that come late change nothing"
    assert worker.swap() == 5
    assert DeferredSwap(serving=0, k=0).offer(1)
    with pytest.raises(ValueError, match="k=-1"):
        DeferredSwap(k=-1)


def test_eta_0_is_synchronous() -> None:
    gate = StalenessGate(batch=2, eta=0)
    gate.start("a")
    gate.start("b")
    assert gate.capacity == 0
    gate.end("a")
    assert gate.take() is None and gate.capacity == 0
    gate.end("b")
    batch = gate.take()
    assert batch is not None and batch.samples == ("a", "b") and batch.histogram == {0: 2}
    assert gate.capacity == 0, "the step is not done yet"
    assert gate.advance() == 1 and gate.capacity == 2


def test_a_rejected_sample_is_counted_and_replaced() -> None:
    gate = StalenessGate(batch=1)
    gate.start("a")
    gate.reject("a", "void")
    assert gate.dropped == {"void": 1} and gate.capacity == 1


def test_a_straggler_is_dropped_waited_for_or_corrected() -> None:
    def after_two_steps(policy: str) -> StalenessGate:
        gate = StalenessGate(batch=1, eta=1, policy=policy)  # type: ignore[arg-type]
        gate.start("slow")
        for name in ("a", "b"):
            gate.start(name)
            gate.end(name)
            if gate.take() is not None:
                gate.advance()
        return gate

    drop = after_two_steps("drop")
    assert drop.version == 2 and drop.take() is None
    assert not drop.end("slow")
    assert drop.take() is None and drop.dropped == {"too old": 1} and drop.capacity == 2

    wait = after_two_steps("wait")
    assert wait.version == 1 and wait.held_up_by == ["slow"], "the second step would leave it behind"
    wait.end("slow")
    batch = wait.take()
    assert batch is not None and batch.samples == ("slow",) and batch.ages == (1,)

    correct = after_two_steps("correct")
    correct.end("slow")
    batch = correct.take()
    assert batch is not None and batch.histogram == {2: 1} and not correct.dropped


def test_a_restart_brings_no_burst_and_keeps_what_waits() -> None:
    gate = StalenessGate(batch=4, eta=2)
    gate.recovered(100)
    assert gate.capacity == 12, "as at the beginning, and not 400 more"
    for number in range(6):
        gate.start(f"s{number}")
    for number in range(4):
        gate.end(f"s{number}", oldest=99)
    assert gate.take() is not None
    state = json.loads(json.dumps(gate.state()))
    after = StalenessGate(batch=4, eta=2)
    after.recovered(**state)
    assert (after.version, after.waiting, after.running, after.capacity) == (100, 4, 0, 8)
    gate.recovered(**state)
    assert gate.dropped == {"lost at a restart": 2}


def test_misuse_is_refused() -> None:
    gate = StalenessGate(batch=1, eta=0)
    gate.start("a")
    with pytest.raises(ValueError, match="already"):
        gate.start("a")
    with pytest.raises(ValueError, match="may not start"):
        gate.start("b")
    with pytest.raises(ValueError, match="took no batch"):
        gate.advance()
    gate.end("a")
    gate.take()
    with pytest.raises(ValueError, match="advance"):
        gate.take()
    gate.give_back()
    assert gate.take() is not None, "a step that failed can be tried again"
    with pytest.raises(ValueError, match="below eta"):
        StalenessGate(batch=1, eta=3, bound=2)


def test_tokens_that_nobody_sampled_have_no_age() -> None:
    assert oldest_version([-1, -1, 5, 4, -1, 6]) == 4
    with pytest.raises(ValueError, match="No token"):
        oldest_version([-1])


EVENTS = ["start", "burst", *["end", "straggle", "train"] * 3, "reject", "fail", "restart"]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 4), st.integers(0, 3),
    st.sampled_from(["drop", "wait", "correct"]), st.none() | st.integers(1, 9),
)  # fmt: skip
def test_the_bound_holds_under_restarts_stragglers_and_bursts(
    seed: int, batch: int, eta: int, more: int, policy: str, most: int | None
) -> None:
    """Whatever happens, in any order: no batch is too old, nothing grows, every sample is accounted for."""
    rng = random.Random(seed)
    gate = StalenessGate(batch=batch, eta=eta, bound=eta + more, policy=policy, most_running=most)  # type: ignore[arg-type]
    running: dict[str, int] = {}
    numbers = iter(range(10**6))
    fate: Counter[str] = Counter()
    saved = gate.state()
    for _ in range(200):
        event = rng.choice(EVENTS)
        if event in ("start", "burst"):
            for _ in range(gate.capacity if event == "burst" else min(1, gate.capacity)):
                name = f"s{next(numbers)}"
                gate.start(name)
                running[name] = gate.version
                fate["started"] += 1
        elif event in ("end", "reject") and running:
            name = next(iter(running)) if event == "end" else rng.choice(list(running))
            version = running.pop(name)
            # Interrupted at weight updates, its first token is of the version it was started at.
            gate.end(name, oldest=version) if event == "end" else gate.reject(name, "void")
        elif event == "straggle" and running:  # any overtakes others
            name = rng.choice(list(running))
            gate.end(name, oldest=running.pop(name))
        elif event in ("train", "fail"):
            taken = gate.take()
            if taken is None:
                continue
            assert len(set(taken.samples)) == batch == len(taken.ages)
            assert min(taken.ages) >= 0
            if policy != "correct":
                assert max(taken.ages) <= gate.bound
            if event == "fail":
                gate.give_back()
            else:
                gate.advance()
                fate["trained"] += batch
                saved = gate.state()
        elif event == "restart" and rng.random() < 0.3:
            fate["started"] += len(saved["waiting"]) - gate.waiting  # what ended after the checkpoint is lost
            gate.recovered(saved["version"], saved["waiting"], gate.dropped)
            running.clear()
        assert gate.running == len(running)
        assert gate.running + gate.waiting <= (eta + 1) * batch
        if most is not None:
            assert gate.running <= most
        assert fate["started"] == (
            fate["trained"] + sum(gate.dropped.values()) + gate.running + gate.waiting
        ), "each sample was trained on, is counted as dropped, or is still there"
    if policy == "wait":
        assert gate.dropped["too old"] == 0


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 3), st.sampled_from(["drop", "wait"]))
def test_training_always_goes_on(seed: int, batch: int, eta: int, policy: str) -> None:
    """No order of endings leaves the trainer without a batch for ever."""
    rng = random.Random(seed)
    gate = StalenessGate(batch=batch, eta=eta, policy=policy)  # type: ignore[arg-type]
    running: list[str] = []
    numbers = iter(range(10**6))
    for _ in range(100 * batch * (eta + 1)):
        for _ in range(gate.capacity):
            running.append(f"s{next(numbers)}")
            gate.start(running[-1])
        if running and rng.random() < 0.7:
            gate.end(running.pop(rng.randrange(len(running))))
        if gate.take() is not None:
            gate.advance()
        assert running or gate.waiting or gate.capacity
    assert gate.version > 5

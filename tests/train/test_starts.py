"""Which groups begin inside a stored success, where, and that a run that goes on draws the same."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from replay_support import Played, asked, lab

from agentrl.algorithms.spec import Ramp
from agentrl.rollout.control import StoredStarts
from agentrl.rollout.control_part import Control
from agentrl.train.starts import START, Starts
from agentrl.trajectory import say

SAID = [say(str(number)) for number in range(4)]


def test_the_share_falls_to_nothing_and_places_are_drawn_alike() -> None:
    starts = Starts(StoredStarts(), steps=11, seed=0)
    starts.add("a", SAID)
    for step, share in ((0, 0.5), (5, 0.25), (10, 0.0)):
        drawn = [starts.draw("a", place, step) for place in range(2000)]
        assert sum(map(bool, drawn)) / 2000 == pytest.approx(share, abs=0.04)
    drawn = [starts.draw("a", place, 0) for place in range(3000)]
    lengths = Counter(len(json.loads(one)) for one in drawn if one)
    assert set(lengths) == {1, 2, 3}, "something is done before, and something is left to do"
    assert min(lengths.values()) > 0.28 * sum(lengths.values())
    assert all(json.loads(one) == SAID[: len(json.loads(one))] for one in drawn if one)


def test_a_task_without_a_success_of_several_turns_begins_where_it_does() -> None:
    starts = Starts(StoredStarts(share=1.0), steps=3, seed=0)
    starts.add("short", SAID[:1])
    assert starts.draw("short", 0, 0) == starts.draw("unknown", 0, 0) == ""
    ramp = Starts(StoredStarts(share=Ramp(start=1, end=0, until=2)), steps=9, seed=0)
    ramp.add("a", SAID)
    assert ramp.draw("a", 0, 0) and not ramp.draw("a", 0, 2)
    assert Starts.of(Control(), steps=3, seed=0) is None


WORDS = ("algorithm.name=dapo", "algorithm.rollout={name: stored_starts, options: {share: 1}}")


def test_a_steps_successes_are_where_later_groups_begin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = lab(monkeypatch, *WORDS, tasks=2, size=2)

    def step(**more: object) -> dict[str, float]:
        a, b = {"said": SAID, **more}, {"said": SAID}
        won, lost = Played(1.0, more=a), [Played(0.0, more=a), Played(0.0, more=b), Played(0.0, more=b)]
        made.step({"a": [won, lost[0]], "b": lost[1:]})
        return made.trainer._experience.take_told()[0]

    assert step() == {"starts/episodes": 0.0, "starts/stored": 1.0}
    first = asked(made, START, "a", "b")
    assert first[0] and not first[1], "b has no success yet"
    made.trainer._experience.save(tmp_path)
    told = step(started=1)
    assert (told["starts/episodes"], told["starts/success"]) == (2.0, 0.5)

    resumed = lab(monkeypatch, *WORDS, tasks=2, size=2)
    resumed.trainer._experience.load(tmp_path)
    assert asked(resumed, START, "a", "b") == first

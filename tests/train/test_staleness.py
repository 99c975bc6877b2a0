"""The bound on staleness: held whatever the order in which groups end, with restarts and voids."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.config import load_config
from agentrl.errors import ConfigError
from agentrl.train.staleness import Examined, Group, StalenessRule, histogram


def groups(*oldest: int, finished: bool = True) -> list[Group]:
    return [Group(f"{index}", version, finished, 4) for index, version in enumerate(oldest)]


@pytest.mark.parametrize(
    ("version", "accepted", "running", "room"),
    [(0, 0, 0, 20), (0, 12, 6, 2), (0, 14, 6, 0), (1, 14, 6, 4), (3, 16, 7, 9)],
)
def test_admission_is_areals(version: int, accepted: int, running: int, room: int) -> None:
    rule = StalenessRule(4, "drop")
    trained = version * 4
    assert room == rule.capacity(
        batch=4, trained=trained, version=version, outstanding=accepted - trained + running, last=100
    )


def test_nothing_is_admitted_that_no_step_would_train() -> None:
    assert StalenessRule(4, "drop").capacity(batch=4, trained=8, version=2, outstanding=2, last=3) == 2


def test_the_oldest_groups_come_first() -> None:
    rule = StalenessRule(3, "drop")
    chosen = rule.choose(groups(3, 1, 2, 0), version=3, size=2, after=0, batch=2)
    assert chosen is not None and [group.oldest for group in chosen] == [0, 1]
    assert rule.choose(groups(3), version=3, size=2, after=0, batch=2) is None


def test_waiting_holds_a_batch_back_for_a_straggler_that_could_not_wait_for_the_next() -> None:
    rule = StalenessRule(1, "wait")
    known = [*groups(4, 4), Group("late", 3, False)]
    assert rule.choose(known, version=4, size=2, after=0, batch=2) is None
    assert (
        rule.choose(known, version=4, size=1, after=1, batch=2) is not None
    )  # it has room behind this batch
    assert StalenessRule(1, "drop").choose(known, version=4, size=2, after=0, batch=2) is not None


def test_what_came_too_late_is_dropped_unless_its_weights_are_corrected() -> None:
    late = Group("late", 1, True, 4)
    assert StalenessRule(2, "drop").too_late(late, 4) and not StalenessRule(2, "drop").too_late(late, 3)
    assert StalenessRule(2, "wait").too_late(late, 4)
    assert not StalenessRule(2, "correct").too_late(late, 4)


def test_the_histogram_counts_tokens_by_lag() -> None:
    assert histogram([{"3": 5, "4": 1}, {"4": 2}], 4) == {"0": 3, "1": 5}


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ([], StalenessRule(0, "wait")),
        (["mode=one_step_off", "staleness.bound=7"], StalenessRule(1, "wait")),
        (["mode=async", "staleness.bound=3"], StalenessRule(3, "drop")),
        (["mode=async", "staleness.policy=correct"], StalenessRule(2, "correct")),
    ],
)
def test_one_key_chooses_the_rule(words: list[str], rule: StalenessRule) -> None:
    assert StalenessRule.of(load_config("math", words)) == rule


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="mode="):
        load_config("math", ["mode=sometimes"])


@dataclass
class World:
    """Groups that end in random order, under a rule; what is trained must keep the bound."""

    rule: StalenessRule
    batch: int
    parts: int
    rng: random.Random
    steps: int
    known: dict[str, Group] = field(default_factory=dict)
    version: int = 0
    taken: int = 0
    admitted: int = 0
    dropped: int = 0
    most: int = 0
    lags: list[int] = field(default_factory=list)

    def admit(self) -> None:
        room = self.rule.capacity(
            batch=self.batch, trained=self.version * self.batch + self.taken, version=self.version,
            outstanding=len(self.known), last=self.steps,
        )  # fmt: skip
        for _ in range(room):
            self.admitted += 1
            self.known[f"{self.admitted}"] = Group(f"{self.admitted}", self.version, False)
        self.most = max(self.most, len(self.known))

    def end_one(self, void: float) -> bool:
        """A group ends: any of those under way, stragglers included, or one is void and goes."""
        under_way = [group for group in self.known.values() if not group.finished]
        if not under_way:
            return False
        group = self.rng.choice(under_way[-3:] if self.rng.random() < 0.8 else under_way)
        if self.rng.random() < void:
            del self.known[group.name]
            self.admit()
        else:
            self.known[group.name] = Group(group.name, group.oldest, True, 1)
        return True

    def drop(self) -> None:
        late = [g.name for g in self.known.values() if g.finished and self.rule.too_late(g, self.version)]
        for name in late:
            del self.known[name]
        self.dropped += len(late)
        if late:
            self.admit()

    def restart(self) -> None:
        """Groups under way begin anew; finished ones are as the checkpoint has them."""
        for name, group in self.known.items():
            if not group.finished:
                self.known[name] = Group(name, self.version, False)

    def run(self, void: float, restarts: float) -> Iterator[int]:
        size = self.batch // self.parts
        for _ in range(self.steps):
            self.admit()
            for _ in range(self.parts):
                after = self.batch - self.taken - size
                while True:
                    self.drop()
                    chosen = self.rule.choose(
                        self.known.values(), version=self.version, size=size, after=after, batch=self.batch
                    )
                    if chosen is not None:
                        break
                    assert self.end_one(void), "the trainer waits for ever"
                for group in chosen:
                    yield self.version - group.oldest
                    del self.known[group.name]
                self.taken += size
            self.version, self.taken = self.version + 1, 0
            for _ in range(self.rng.randrange(3 * self.batch)):  # meanwhile the engines go on
                self.end_one(void)
            if self.rng.random() < restarts:
                self.restart()


@given(
    bound=st.integers(0, 4), parts=st.sampled_from([1, 2, 4]), seed=st.integers(0, 10_000),
    void=st.sampled_from([0.0, 0.2]), restarts=st.sampled_from([0.0, 0.3]),
)  # fmt: skip
def test_waiting_keeps_the_bound_and_loses_nothing(
    bound: int, parts: int, seed: int, void: float, restarts: float
) -> None:
    world = World(StalenessRule(bound, "wait"), 4, parts, random.Random(seed), 12)
    lags = list(world.run(void, restarts))
    assert len(lags) == 12 * 4 and max(lags) <= bound
    assert world.dropped == 0 and not world.known
    assert world.most <= (bound + 1) * 4


@given(bound=st.integers(0, 4), parts=st.sampled_from([1, 2]), seed=st.integers(0, 10_000))
def test_dropping_keeps_the_bound_and_never_holds_a_batch_back(bound: int, parts: int, seed: int) -> None:
    world = World(StalenessRule(bound, "drop"), 4, parts, random.Random(seed), 12)
    lags = list(world.run(0.1, 0.1))
    assert len(lags) == 12 * 4 and max(lags) <= bound
    assert world.most <= (bound + 1) * 4


def test_the_doctor_examines_the_first_and_the_last_step_of_which_it_has_a_record() -> None:
    assert Examined(1, 9, 2).steps == {1, 9}
    assert Examined(5, 9, 2).steps == {7, 9}  # groups from before are trained in steps 5 and 6
    assert Examined(8, 9, 2).steps == {9}
    resumed = Examined(5, 20, 2)
    assert [step for step in range(1, 21) if resumed.recorded(step)] == [5, 6, 7, 18, 19, 20]
    assert [v for v in range(20) if resumed.needs(v, now=v)] == [4, 5, 6, 17, 18, 19]
    assert not resumed.needs(6, now=7)
    assert Examined(5, 20, None).recorded(11) and not Examined(5, 20, None).needs(19, now=19)
    assert Examined(5, 20).recorded(5) and not Examined(5, 20).recorded(6)

"""Rewards put together: where each amount lands, what is left out, and what cannot be written."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl import (
    DefinitionError,
    Env,
    NoVerdict,
    Task,
    Term,
    Trajectory,
    Turn,
    gate,
    reward,
    schedule,
)
from agentrl.errors import UserCodeError
from agentrl.reward import Reward
from agentrl.scoring import add_up, components_of, score_episode, score_group


@reward
def exact(episode: Trajectory) -> float:
    return float(episode.task.metadata["exact"])


@reward(name="format")
def layout(episode: Trajectory) -> float:
    return float(episode.task.metadata["format"])


@reward(per="turn")
def clean(episode: Trajectory, turn: Turn) -> float:
    return float(turn.text)


@reward(no_verdict="leave out")
def judged(episode: Trajectory) -> float:
    if episode.task.metadata["judged"] is None:
        raise NoVerdict("the judge is silent")
    return float(episode.task.metadata["judged"])


def episode(*turns: float, progress: float = 1.0, **values: Any) -> Trajectory:
    made = [Turn(i, 0, i, i + 1, text=str(value)) for i, value in enumerate(turns)]
    return Trajectory(Task("?", metadata=values), "e", turns=made, progress=progress)


async def worth(term: Term, made: Trajectory) -> tuple[float, dict[int, float]]:
    await score_episode(made, [term])
    assert made.reward == pytest.approx(made.episode_reward + sum(made.turn_reward.values()))
    return made.episode_reward, made.turn_reward


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (0.9 * exact + 0.1 * layout, 0.95),
        (exact - layout, 0.5),
        (1 - exact, 0.0),
        (2 * exact - 1, 1.0),
        (-layout, -0.5),
        (exact * layout, 0.5),
        (sum([exact, layout]), 1.5),
        ((3 * layout).clip(0, 1), 1.0),
        ((-3 * layout).clip(low=-1), -1.0),
        (gate(exact, then=layout, otherwise=-1), 0.5),
        (gate(layout >= 1, then=exact, otherwise=-1), -1.0),
        (gate(layout >= 0.5, then=exact, otherwise=-1), 1.0),
        (gate(layout > 0.5, then=exact), 0.0),
        (gate(layout < exact, then=2), 2.0),
        (gate((exact > 0) * (layout > 0), then=3), 3.0),
        (gate(layout <= 0.5, then=4), 4.0),
    ],
)
async def test_expressions_of_an_episodes_components(term: Term, expected: float) -> None:
    made = episode(exact=1, format=0.5)
    total, turns = await worth(term, made)
    assert total == pytest.approx(expected) and not turns
    names = {component.name for component in term.components()}
    assert made.rewards == {name: {"exact": 1.0, "format": 0.5}[name] for name in names}


async def test_what_is_per_turn_stays_at_its_turn_unless_it_is_summed_up() -> None:
    values = {"exact": 0, "format": 1}
    assert await worth(0.5 * clean + 2 * layout, episode(1, -3, **values)) == (2.0, {0: 0.5, 1: -1.5})
    assert await worth(clean.clip(-1, 0.5), episode(1, -3)) == (0.0, {0: 0.5, 1: -1.0})
    assert await worth((0.5 * clean).total().clip(-0.5, 0), episode(1, -3)) == (-0.5, {})
    assert await worth(clean * layout, episode(1, -3, **values)) == (0.0, {0: 1.0, 1: -3.0})
    assert await worth(gate(exact, then=clean, otherwise=-1), episode(1, -3, **values)) == (-1.0, {})
    assert await worth(gate(clean.total() < 0, then=clean), episode(1, -3)) == (0.0, {0: 1.0, 1: -3.0})


@pytest.mark.parametrize(
    ("outcome", "steps", "at_least", "above"),
    [(1, (0.1, 0.2), 1.3, 1.3), (-1, (0.1, 0.2, 0.5), -1, -1), (0, (0.1,), 0.1, 0)],
)
async def test_gated_accumulation_as_published(
    outcome: float, steps: tuple[float, ...], at_least: float, above: float
) -> None:
    """G-RA: step rewards count only where the outcome passes its threshold; the comparator is explicit."""
    for condition, expected in ((exact >= 0, at_least), (exact > 0, above)):
        made = episode(*steps, exact=outcome)
        await score_episode(made, [exact + gate(condition, then=clean)])
        assert made.reward == pytest.approx(expected)


async def test_a_component_is_measured_once_however_often_it_is_used() -> None:
    asked = []

    @reward
    async def counted(episode: Trajectory) -> float:
        asked.append(episode)
        return 1.0

    made = episode()
    await score_episode(made, [counted, gate(counted > 0, then=2 * counted, otherwise=counted)])
    assert (made.reward, len(asked), made.rewards) == (3.0, 1, {"counted": 1.0})


async def test_a_weight_counts_in_the_list_and_must_not_hide_in_an_expression() -> None:
    @reward(weight=0.25)
    def light(episode: Trajectory) -> float:
        return 1.0

    made = episode(exact=1)
    await score_episode(made, [light, 0.5 * exact])
    assert made.reward == 0.75
    with pytest.raises(DefinitionError, match=r"light has weight=0.25 of its own.*write the factor"):
        0.5 * light


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: exact + "1", "not of '1'"),  # type: ignore[operator]
        (lambda: exact * math.nan, "not of nan"),
        (lambda: exact + (lambda episode: 1.0), "becomes a reward by"),  # type: ignore[operator]
        (lambda: clean * clean, r"one per turn. Sum them up first: \(clean\).total"),
        (lambda: gate(clean, then=1), "A gate's condition takes one number per episode"),
        (lambda: clean > 0, "A comparison takes"),
        (lambda: (clean + exact).clip(0, 1), r"total\(\).clip\(\)"),
        (lambda: exact.clip(), "give a low bound"),
        (lambda: exact.clip(1, 0), "give a low bound"),
        (lambda: 0 < exact < 1, "split 0 < a < 1 in two"),
        (lambda: schedule(1.0), "from one finite number to another"),
        (lambda: schedule(1, 0, since=0.6, until=0.5), "0 <= since <= until <= 1"),
        (lambda: schedule(1, 0, shape="cubic"), "linear, cosine, step"),  # type: ignore[arg-type]
        (lambda: reward(no_verdict="zero")(lambda episode: 0), "'void' or 'leave out'"),  # type: ignore[call-overload]
    ],
)
def test_what_has_no_meaning_is_refused_when_it_is_written(wrong: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        wrong()


# ---- schedules


@pytest.mark.parametrize(
    ("number", "at", "expected"),
    [
        (schedule(1, 0), 0.25, 0.75),
        (schedule(0, 2, shape="cosine"), 0.5, 1.0),
        (schedule(0, 2, shape="cosine"), 0.25, 1 - math.sqrt(0.5)),
        (schedule(1, 0, shape="step", until=0.5), 0.49, 1.0),
        (schedule(1, 0, shape="step", until=0.5), 0.5, 0.0),
        (schedule(1, 0, since=0.5), 0.5, 1.0),
        (schedule(1, 0, since=0.5, until=0.5), 0.5, 0.0),
        (schedule(lambda progress: progress**2), 0.5, 0.25),
    ],
)
async def test_a_schedule_goes_by_progress(number: Term, at: float, expected: float) -> None:
    assert (await worth(number * exact, episode(progress=at, exact=1)))[0] == pytest.approx(expected)


@given(
    start=st.floats(-5, 5), end=st.floats(-5, 5), since=st.floats(0, 0.5), until=st.floats(0.5, 1),
    shape=st.sampled_from(["linear", "cosine", "step"]), progress=st.floats(0, 1),
)  # fmt: skip
def test_a_schedule_stays_between_its_ends(
    start: float, end: float, since: float, until: float, shape: Any, progress: float
) -> None:
    number = schedule(start, end, since=since, until=until, shape=shape)
    amount = number.amount(episode(progress=progress))
    assert amount is not None
    assert min(start, end) - 1e-9 <= amount.episode <= max(start, end) + 1e-9
    if progress >= until:
        assert amount.episode == end


@pytest.mark.parametrize(
    "term", [exact * exact, exact * schedule(lambda progress: math.nan), exact - exact * exact]
)
async def test_what_adds_up_to_no_finite_number_is_never_trained_on(term: Term) -> None:
    made = episode(exact=1e200)
    with pytest.raises(UserCodeError, match=r"add up to .*'exact': 1e\+200.*clip"):
        await score_episode(made, [term])
    assert made.reward is None


# ---- no verdict


async def test_a_component_without_a_verdict_is_left_out_and_named() -> None:
    made = episode(exact=1, judged=None)
    await score_episode(made, [0.8 * exact + 0.2 * judged])
    assert (made.reward, made.rewards) == (0.8, {"exact": 1.0})
    assert made.missing == {"judged": "the judge is silent"}
    made = episode(exact=1, judged=0.5)
    await score_episode(made, [0.8 * exact + 0.2 * judged])
    assert made.reward == pytest.approx(0.9) and not made.missing


@pytest.mark.parametrize(
    "terms",
    [[judged], [2 * judged - 1], [judged.clip(0, 1)], [gate(judged, then=1)], [exact * judged]],
)
async def test_an_episode_of_which_nothing_is_known_has_no_reward(terms: list[Term]) -> None:
    with pytest.raises(NoVerdict, match="judged: the judge is silent"):
        await score_episode(episode(exact=1, judged=None), terms)


async def test_by_default_no_verdict_is_not_left_out() -> None:
    @reward
    def strict(episode: Trajectory) -> float:
        raise NoVerdict("silent")

    with pytest.raises(NoVerdict, match="silent"):
        await score_episode(episode(exact=1), [exact, strict])


async def test_a_turn_without_a_verdict_leaves_the_others() -> None:
    @reward(per="turn", no_verdict="leave out")
    def some(episode: Trajectory, turn: Turn) -> float:
        if turn.text == "0":
            raise NoVerdict("silent")
        return float(turn.text)

    made = episode(1, 0, 3)
    await score_episode(made, [some])
    assert made.turn_reward == {0: 1.0, 2: 3.0} and "some" in made.missing
    assert made.components == {"some": 4.0}
    with pytest.raises(NoVerdict):
        await score_episode(episode(0, 0), [some])


# ---- groups


@reward(per="group")
def place(episodes: Any) -> Any:
    return [position / 10 for position, _ in enumerate(episodes)]


async def test_what_depends_on_a_group_is_filled_in_with_the_group() -> None:
    terms: list[Term] = [exact + place]
    group = [episode(exact=number) for number in range(3)]
    for made in group:
        await score_episode(made, terms)
        assert made.reward == made.task.metadata["exact"] and "place" not in made.rewards
    await score_group(group, terms)
    assert [made.reward for made in group] == pytest.approx([0.0, 1.1, 2.2])
    assert [made.rewards["place"] for made in group] == [0.0, 0.1, 0.2]


async def test_an_episode_whose_judge_is_silent_may_still_get_its_groups_reward() -> None:
    terms: list[Term] = [judged + place]
    group = [episode(judged=None), episode(judged=0.5)]
    for made in group:
        await score_episode(made, terms)
    await score_group(group, terms)
    assert [made.reward for made in group] == pytest.approx([0.0, 0.6])
    assert [set(made.rewards) for made in group] == [{"place"}, {"judged", "place"}]


@pytest.mark.parametrize(
    ("value", "words"),
    [([1.0], "1 numbers for the 2 episodes"), (1.0, "one number for each"), (["a", 1], "finite number")],
)
async def test_a_group_reward_returns_one_number_per_episode(value: Any, words: str) -> None:
    odd = Reward(lambda episodes: value, "odd", per="group")
    with pytest.raises(Exception, match=words):
        await score_group([episode(), episode()], [odd])


# ---- environments


class Shop(Env):
    """An expression of its own methods."""

    @reward
    def right(self, episode: Trajectory) -> float:
        return float(self.sold)

    @reward
    def polite(self, episode: Trajectory) -> float:
        return 1.0

    @reward(weight=0)
    def seen(self, episode: Trajectory) -> float:
        return 7.0

    bonus = reward(name="extra")(lambda episode: 5.0)  # a component of the class, if no method

    rewards = (0.9 * right + 0.1 * gate(right, then=polite), 0 * bonus)

    async def reset(self, task: Task) -> None:
        self.sold = 1


class Rude(Shop):
    @reward
    def polite(self, episode: Trajectory) -> float:
        return -1.0


@pytest.mark.parametrize(("kind", "expected"), [(Shop, 1.0), (Rude, 0.8)])
async def test_methods_count_where_they_stand_bound_to_the_episodes_environment(
    kind: type[Shop], expected: float
) -> None:
    shop = kind().spawn()
    await shop.reset(Task("?"))
    made = episode()
    await score_episode(made, shop.own_rewards())
    assert made.reward == pytest.approx(expected)
    assert sorted(made.rewards) == ["extra", "polite", "right", "seen"]


def test_two_rewards_of_one_name_are_refused() -> None:
    def exact(episode: Trajectory) -> float:
        return 0.0

    with pytest.raises(DefinitionError, match="Two rewards are called 'exact'"):
        components_of([reward(exact), globals()["exact"]])


def test_an_expression_says_what_it_is() -> None:
    term = 0.9 * exact - 2 * layout - 1 + gate(layout >= 1, then=clean.total().clip(0, 1), otherwise=-1)
    assert str(term) == (
        "0.9 * exact - 2 * format - 1 + gate((format >= 1), then=((clean).total()).clip(0, 1), otherwise=-1)"
    )
    assert str(-exact - (layout - 1)) == "-exact - (format - 1)"


# ---- properties: the sum is a pure function of the record, and lands where its parts do


LEAVES = st.sampled_from([exact, layout, clean.total()])
NUMBERS = st.floats(-3, 3)
TERMS = st.recursive(
    LEAVES,
    lambda inner: (
        st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1])
        | st.tuples(inner, inner).map(lambda pair: pair[0] * pair[1])
        | st.tuples(NUMBERS, inner).map(lambda pair: pair[0] * pair[1])
        | inner.map(lambda term: term.clip(-1, 1))
        | st.tuples(inner, inner, inner).map(lambda three: gate(three[0] > 0, three[1], three[2]))
    ),
    max_leaves=8,
)


@given(term=TERMS, values=st.tuples(NUMBERS, NUMBERS), turns=st.lists(NUMBERS, max_size=3))
def test_sums_are_functions_of_the_record(
    term: Term, values: tuple[float, float], turns: list[float]
) -> None:
    made = episode(*turns)
    made.rewards = {"exact": values[0], "format": values[1]}
    for turn, value in zip(made.turns, turns, strict=True):
        turn.rewards = {"clean": value}
    add_up(made, [term])
    first = made.reward
    add_up(made, [term])
    assert first == made.reward and first is not None and math.isfinite(first)
    add_up(made, [term, -term])
    assert made.reward == pytest.approx(0, abs=1e-6)
    add_up(made, [2.0 * term + clean])
    assert made.reward == pytest.approx(2 * first + sum(turns), abs=1e-6 * (1 + abs(first)))
    assert set(made.turn_reward) == set(range(len(turns)))

"""The small parts: tags, calls, and comparisons within a group."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl import Call, DefinitionError, Observation, Task, Trajectory, Turn, UsageError, gate
from agentrl.rewards.calls import called, failed_call, unfinished
from agentrl.rewards.format import find_tag, tag_problem, tagged
from agentrl.rewards.math import torl
from agentrl.rewards.pairwise import win_rate
from agentrl.scoring import score_episode, score_group

TAGS = ("think", "search", "answer")
RULES: dict[str, Any] = {"once": ("answer",), "needed": ("think",), "first": "think", "last": "answer"}


def episode(*raw: str, status: Any = "finished", calls: list[Call] | None = None) -> Trajectory:
    turns = [Turn(i, 0, i, i + 1, text=text, raw=text) for i, text in enumerate(raw)]
    if calls:
        turns[-1].calls = calls
    return Trajectory(Task("?", answer="5"), "e", turns=turns, status=status)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<think>a</think><answer>b</answer>", None),
        (" <think>a</think> so <search>x</search>\n<think>c</think><answer>b</answer>\n", None),
        ("<think>a < b, <b>bold</b></think><answer>b</answer>", None),
        ("<think>a</think><answer>b", "<answer> is not closed"),
        ("<think>a</think></answer>", "</answer> closes nothing"),
        ("<think>a<search>b</search></think><answer>b</answer>", "<search> stands within <think>"),
        ("<think>a</search></think><answer>b</answer>", "</search> stands within <think>"),
        ("<think>a<think>b</think><answer>b</answer>", "<think> stands within <think>"),
        ("<think> \n</think><answer>b</answer>", "<think> is empty"),
        ("<answer>b</answer><think>a</think>", "does not begin with <think>"),
        ("Well. <think>a</think><answer>b</answer>", "does not begin with <think>"),
        ("<think>a</think><answer>b</answer> done", "does not end with </answer>"),
        ("<think>a</think><answer>b</answer><think>a</think>", "does not end with </answer>"),
        ("<think>a</think><answer>b</answer><answer>b</answer>", "<answer> stands there 2 times"),
        ("no tags at all", "does not end with </answer>"),
        ("", "does not end with </answer>"),
    ],
)
def test_tags(text: str, problem: str | None) -> None:
    found = tag_problem(text, TAGS, **RULES)
    assert found is None if problem is None else found is not None and problem in found


def test_rules_of_tags_count_only_where_they_are_given() -> None:
    assert tag_problem("so", TAGS) is None
    assert tag_problem("so", TAGS, once=["answer"]) == "<answer> stands there 0 times"
    assert tag_problem("so", TAGS, needed=["think"]) == "<think> is missing"
    assert tag_problem("<think>a</think> so", TAGS, covered=True) == "text stands outside of the tags"
    assert tag_problem("<think>a</think>\n<answer>a</answer>", TAGS, covered=True) is None


@given(
    st.lists(st.sampled_from([*(f"<{n}>" for n in TAGS), *(f"</{n}>" for n in TAGS), "x", " "]), max_size=12)
)
def test_what_passes_is_a_row_of_closed_tags(pieces: list[str]) -> None:
    text = "".join(pieces)
    if tag_problem(text, TAGS) is None:
        for name in TAGS:
            assert text.count(f"<{name}>") == text.count(f"</{name}>")
            assert bool(find_tag(text, name)) == (f"<{name}>" in text)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("<answer> a </answer>", "a"),
        ("<answer>a</answer><answer>b</answer>", "b"),
        ("<answer>a</answer><answer>b", "a"),
        ("a</answer>", None),
        ("</answer><answer>", None),
        ("", None),
    ],
)
def test_the_last_complete_tag_is_found(text: str, held: str | None) -> None:
    assert find_tag(text, "answer") == held


async def test_a_layout_is_judged_over_all_that_the_model_wrote() -> None:
    layout = tagged(*TAGS, **RULES)
    good = episode(
        "<think>a</think><search>x</search><|im_end|>", "<think>b</think><answer>c</answer><|im_end|>"
    )
    assert layout.name == "format" and await layout.score(good) == 1.0
    assert await layout.score(episode("<think>a</think>")) == 0.0
    made = episode("<think>a</think>")
    await score_episode(made, [gate(layout, then=1, otherwise=-1)])
    assert (made.reward, made.rewards) == (-1.0, {"format": 0.0})


@pytest.mark.parametrize("wrong", [(), ("<think>",), ("a b",)])
def test_names_of_tags_are_checked(wrong: tuple[str, ...]) -> None:
    with pytest.raises(DefinitionError, match="not one of its tags"):
        tagged(*wrong)
    with pytest.raises(DefinitionError, match="'anwser' is not one of its tags"):
        tagged("answer", once=["anwser"])


async def test_calls_are_told_apart_by_how_they_went() -> None:
    fine = Call("python", {}, "a", observation=Observation("5"))
    broke = Call("python", {}, "b", observation=Observation("NameError", error=True))
    invalid = Call("python", None, "c", status="invalid")
    for calls, expected in (
        (None, (0, 0)), ([fine], (1, 0)), ([fine, broke], (1, 1)), ([broke], (0, 1)), ([invalid], (0, 1)),
    ):  # fmt: skip
        made = episode("x", calls=calls)
        assert (await called.score(made), await failed_call.score(made)) == expected
    assert await unfinished.score(episode("x", status="truncated")) == 1.0
    assert await unfinished.score(episode("x")) == 0.0


async def test_torl_pays_one_or_takes_one() -> None:
    for text, expected in ((r"\boxed{5}", 1.0), (r"\boxed{6}", -1.0), ("5", -1.0)):
        made = episode(text)
        await score_episode(made, [torl])
        assert made.reward == expected and set(made.rewards) == {"correct"}


# ---- SPO's share of wins


def contest(chances: list[list[float | None]]) -> Any:
    def compare(first: Trajectory, second: Trajectory) -> float | None:
        return chances[int(first.id)][int(second.id)]

    return compare


async def shares(chances: list[list[float | None]], order: list[int] | None = None) -> list[float]:
    group = [Trajectory(Task("?"), str(number)) for number in order or range(len(chances))]
    await score_group(group, [win_rate(contest(chances))])
    return [made.rewards["win_rate"] for made in group]


async def test_win_rates_as_published() -> None:
    preferences: list[list[float | None]] = [[0.5, 0.9, 0.6], [0.1, 0.5, 0.8], [0.4, 0.2, 0.5]]
    assert await shares(preferences) == pytest.approx([0.75, 0.45, 0.30])
    assert await shares(preferences, [2, 0, 1]) == pytest.approx([0.30, 0.75, 0.45])
    circle: list[list[float | None]] = [[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]]
    assert await shares(circle) == [0.5, 0.5, 0.5]
    assert await shares([[None, None], [None, None]]) == [0.5, 0.5]
    assert await shares([[None]]) == [0.5]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.randoms(use_true_random=False))
async def test_shares_follow_their_episodes(strengths: list[int], rng: Random) -> None:
    def stronger(first: Trajectory, second: Trajectory) -> float:
        one, other = strengths[int(first.id)], strengths[int(second.id)]
        return 0.5 if one == other else float(one > other)

    async def shares_of(order: list[int]) -> list[float]:
        group = [Trajectory(Task("?"), str(number)) for number in order]
        await score_group(group, [win_rate(stronger)])
        return [made.rewards["win_rate"] for made in group]

    order = rng.sample(range(len(strengths)), len(strengths))
    plain = await shares_of(list(range(len(strengths))))
    assert await shares_of(order) == pytest.approx([plain[number] for number in order])
    assert sum(plain) / len(plain) == pytest.approx(0.5)


async def test_a_share_is_of_those_that_one_meets() -> None:
    group = [Trajectory(Task("?"), str(number)) for number in range(4)]
    chances: Any = [[0.5, 1, 1, 1], [0, 0.5, 1, 1], [0, 0, 0.5, 1], [0, 0, 0, 0.5]]
    await score_group(group, [win_rate(contest(chances), meet=lambda episodes: [(0, 1), (1, 2)])])
    assert [made.rewards["win_rate"] for made in group] == [1.0, 0.5, 0.0, 0.5]


async def test_a_chance_outside_of_its_range_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="chance of 2 is not within 0 and 1"):
        await shares([[0.5, 2], [2, 0.5]])

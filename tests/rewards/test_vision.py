"""Exact answers, and Pixel-Reasoner's term on the paper's numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl import Call, DefinitionError, Task, Trajectory, Turn
from agentrl.rewards.vision import correct, curiosity, pixel_reasoner, same_answer


def episode(text: str = "", *calls: tuple[str, str], answer: object = "red") -> Trajectory:
    made = [Call(name, {}, str(index), status) for index, (name, status) in enumerate(calls)]
    turns = [Turn(0, 0, 0, 0, calls=made), Turn(1, 0, 0, 0, text=text)]
    return Trajectory(Task("?", answer=answer), "a", turns=turns)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<answer>red</answer>", 1.0),
        ("I see. <answer> Red. </answer>", 1.0),
        ("<answer>blue</answer> no, <answer>RED</answer>", 1.0),
        ("red", 0.0),
        ("<answer>red</answer> <answer>blue</answer>", 0.0),
        ("<answer>red blue</answer>", 0.0),
        ("<answer></answer>", 0.0),
        ("", 0.0),
    ],
)
def test_the_answer_in_tags_counts_as_a_whole(text, value):
    assert correct(episode(text)) == value


def test_any_of_several_answers_will_do_and_one_is_needed():
    assert correct(episode("<answer>7</answer>", answer=["seven", 7])) == 1.0
    with pytest.raises(DefinitionError, match="has none"):
        correct(episode("<answer>7</answer>", answer=None))


def test_points_and_signs_are_part_of_a_number():
    assert same_answer("7.5", "7.5") and not same_answer("7.5", "75") and not same_answer("-3", "3")


def test_the_papers_numbers():
    """Three operations of the only episode of four that looks: 0.5 * (0.3 - 0.25) - 0.05 * 2."""
    looked, *others = curiosity([3, 0, 0, 0])
    assert 1 + looked == pytest.approx(0.925)
    assert others == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("actions", "terms"),
    [
        ([0, 0, 0, 0], [0.0] * 4),  # nobody looks, so nobody is paid
        ([1, 0, 0, 0, 0, 0, 0, 0], [0.0875, *[0.0] * 7]),  # one of eight
        ([1, 1, 0, 0], [0.0] * 4),  # enough look already
        ([2, 1, 5, 0], [-0.05, 0.0, -0.2, 0.0]),
        ([], []),
    ],
)
def test_terms_by_hand(actions, terms):
    assert curiosity(actions) == pytest.approx(terms)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=16))
def test_what_holds_for_all_groups(actions):
    terms = curiosity(actions)
    rate = sum(count > 0 for count in actions) / len(actions)
    assert all(term <= 0.5 * max(0.0, 0.3 - rate) + 1e-12 for term in terms)
    assert all(term == 0 for term, count in zip(terms, actions, strict=True) if count == 0)
    one = [term for term, count in zip(terms, actions, strict=True) if count == 1]
    assert all(term >= 0 for term in one)


async def test_answered_calls_of_tools_that_look_are_counted():
    group = [
        episode("", ("crop", "ok"), ("crop", "error"), ("zoom", "ok"), ("rotate", "ok"), ("python", "ok")),
        episode("", ("python", "ok")),
        episode("", ("crop", "malformed")),
        episode(),
    ]
    assert await pixel_reasoner().score_group(group) == pytest.approx([0.025 - 0.1, 0.0, 0.0, 0.0])
    assert await pixel_reasoner(["python"]).score_group(group) == pytest.approx([0.0] * 4)


@pytest.mark.parametrize("options", [{"bonus": -1}, {"cost": -0.1}, {"most_actions": -1}, {"least_rate": 2}])
def test_factors_that_make_no_sense(options):
    with pytest.raises(DefinitionError, match="must be 0 or more"):
        pixel_reasoner(**options)

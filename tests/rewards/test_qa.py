"""Rewards of questions, with numbers worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl import DefinitionError, Task, Trajectory, Turn
from agentrl.rewards.qa import (
    answer_format,
    exact,
    exact_match,
    extract_answer,
    f1,
    search_r1,
    token_f1,
)
from agentrl.rewards.words import normalize


def episode(text: str, answer: object = "Paris") -> Trajectory:
    return Trajectory(Task("?", answer=answer), "e", turns=[Turn(0, 0, 0, 0, text=text)])


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("an  apple,\na day", "apple day"),
        ("U.S.", "us"),
        ("68,512,806", "68512806"),
        ("Theodore", "theodore"),
        ("Łódź", "łódź"),
        ("the", ""),
    ],
)
def test_normalising(text, plain):
    assert normalize(text) == plain


@pytest.mark.parametrize(
    ("answer", "golds", "equal"),
    [
        ("The Beatles", ["Beatles"], True),
        ("beatles.", ["Rolling Stones", "The Beatles"], True),
        ("Beatles band", ["Beatles"], False),
        ("", ["the"], False),
        ("+", ["-"], False),
        ("+", ["+"], True),
        ("x", [], False),
    ],
)
def test_exact_match(answer, golds, equal):
    assert exact_match(answer, golds) is equal


@pytest.mark.parametrize(
    ("answer", "golds", "score"),
    [
        ("Chief of Protocol", ["Chief of Protocol"], 1.0),
        ("the United States Chief of Protocol", ["Chief of Protocol"], 0.75),  # precision 3/5, recall 1
        ("protocol", ["Chief of Protocol"], 0.5),  # precision 1, recall 1/3
        ("New York York", ["York City"], 0.4),  # one word in common: precision 1/3, recall 1/2
        ("blue", ["red", "dark blue"], 2 / 3),  # the better of 0 and 2/3
        ("yes it is", ["yes"], 0.0),
        ("yes", ["yes he was"], 0.0),
        ("Yes.", ["yes"], 1.0),
        ("the", ["the"], 0.0),
        ("red", [], 0.0),
    ],
)
def test_f1(answer, golds, score):
    assert token_f1(answer, golds) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>Paris</answer>", "Paris"),
        ("<answer>Rome</answer> no, <answer>\nParis\n</answer>.", "Paris"),
        ("<answer>Rome <answer>Paris</answer>", "Paris"),
        ("<answer>Rome\nand Paris</answer>", "Rome\nand Paris"),
        ("Paris", None),
        ("<answer>Paris", None),
        ("<answer> </answer>", None),
        (f"<answer>{'x' * 1001}</answer>", None),
    ],
)
def test_the_answer_is_what_the_last_tags_hold(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "scores"),  # exact, f1, answer_format, search_r1(0.2)
    [
        ("So <answer>paris</answer>", (1, 1, 1, 1)),
        ("<answer>Paris, France</answer>", (0, 2 / 3, 1, 0.2)),
        ("<answer>Rome</answer>", (0, 0, 1, 0.2)),
        ("<answer>Paris</answer> it is", (1, 1, 0, 1)),
        ("<answer>Rome</answer><answer>Paris</answer>", (1, 1, 0, 1)),
        ("<answer></answer>", (0, 0, 0, 0)),
        ("</answer>", (0, 0, 0, 0)),
        ("Paris", (0, 0, 0, 0)),
        ("", (0, 0, 0, 0)),
    ],
)
async def test_components(text, scores):
    components = (exact, f1, answer_format, search_r1(0.2))
    assert [await component.score(episode(text)) for component in components] == pytest.approx(scores)


async def test_any_of_several_answers_will_do():
    assert await exact.score(episode("<answer>Sucre</answer>", ["La Paz", "Sucre"])) == 1
    assert await exact.score(episode("<answer>1,234</answer>", 1234)) == 1


@pytest.mark.parametrize("answer", [None, []])
async def test_a_task_without_an_answer_is_a_mistake_of_its_author(answer):
    with pytest.raises(DefinitionError, match="has none"):
        await exact.score(episode("<answer>Paris</answer>", answer))


@pytest.mark.parametrize("score", [-0.1, 1.0])
def test_a_wrong_answer_is_worth_less_than_a_right_one(score):
    with pytest.raises(DefinitionError, match="format_score"):
        search_r1(score)


@given(st.text(max_size=60), st.lists(st.text(max_size=20), min_size=1, max_size=3))
def test_whatever_is_written_scores_within_bounds(text, golds):
    assert 0 <= token_f1(text, golds) <= 1
    assert not exact_match(text, golds) or not normalize(text) or token_f1(text, golds) == pytest.approx(1)
    tagged = episode(f"<answer>{text}</answer>", golds)
    assert 0 <= search_r1(0.5).function(tagged) <= 1

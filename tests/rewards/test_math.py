"""Extraction and comparison of final answers, with worked and hostile cases."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl import DefinitionError, Task, Trajectory, Turn
from agentrl.rewards.formulas import judge
from agentrl.rewards.math import STYLES, correct, extract_answer, math_equal, read_number


def episode(answer: object, *texts: str) -> Trajectory:
    turns = [Turn(i, 0, 0, 0, text=text) for i, text in enumerate(texts)]
    return Trajectory(Task("?", answer=answer), "e", turns=turns)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{5} and then \boxed{6", "5"),
        (r"\boxed{}", None),
        (r"\boxed{" + "1" * 300 + "}", None),
        ("the answer is 42", None),
        ("#### 42", None),
        ("", None),
    ],
)
def test_only_boxes_count_by_default(text, found):
    assert extract_answer(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"answer is 3, \boxed{4}", "4"),
        ("work\n#### 1,234", "1,234"),
        ("The answer is: 12.5.", "12.5"),
        ("The answer is 12.5. Done", "12.5. Done"),
        ("12 apples and 3/4 of $5", "$5"),
        ("nothing", None),
    ],
)
def test_lenient_styles_look_further(text, found):
    assert extract_answer(text, tuple(STYLES)) == found


def test_an_unknown_style_is_an_error():
    with pytest.raises(DefinitionError, match="boxed, hash"):
        extract_answer("1", ("box",))


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("1234", "1,234"),
        ("1,234.00", "1234"),
        (r"1{,}234", "1234"),
        (r"\$18", "18"),
        ("$18.00", "18"),
        ("+5", "5"),
        ("−5", "-5"),
        (r"-\frac{3}{4}", "-0.75"),
        (r"\dfrac{3}{4}", "3/4"),
        ("2/4", "1/2"),
        (r"50\%", "0.5"),
        ("50%", "50"),
        ("50", "50%"),
        ("x = 7", "7"),
        (r"12\text{ apples}", "12"),
        (r"30^\circ", "30"),
        ("1e3", "1000"),
        (".5", "0.5"),
        ("5.", "5"),
        ("0.3333", "1/3"),
        ("0.30000000000000004", "0.3"),
        ("0042", "42"),
    ],
)
def test_the_same_number_in_other_clothes(answer, gold):
    assert math_equal(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("12", "13"),
        ("0.33", "1/3"),
        ("1.5", "15"),
        ("12,34", "1234"),
        ("5 or 6", "6"),
        ("5, 6", "6"),
        ("5=6", "6"),
        ("6 6", "6"),
        ("12*13", "156"),  # the question handed back
        (r"12 \cdot 13", "156"),
        ("(1213-66)/37", "31"),
        ("26/2", "13"),
        (r"\frac{26}{2}", "13"),
        (r"\sqrt{4}", "2"),
        (r"5\text{ million}", "5"),
        (r"5\text{ or }6", "5"),
        ("1/0", "0"),
        ("nan", "0"),
        ("inf", "1"),
        ("٣", "3"),
        ("", "0"),
        ("{}", "0"),
    ],
)
def test_not_the_same_number(answer, gold):
    assert not math_equal(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        ("x^2+2x+1", "(x+1)^2", True),
        (r"\{2, 1\}", r"\{1, 2\}", True),
        ("(1, 2)", "(2, 1)", False),
        ("x^2+2x", "(x+1)^2", False),
        ("3.14", r"\pi", False),
    ],
)
def test_formulas(answer, gold, equal):
    assert math_equal(answer, gold) is equal


BOMBS = [
    "9**9**9",
    "9^{9^{9}}",
    "1e999999999",
    "9" * 199 + "!",
    "100000000!",
    "(" * 199,
    "{" * 199,
    "1/" * 99 + "1",
]


@pytest.mark.timeout(10)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_hostile_answer_to_a_number_costs_nothing(bomb):
    assert not math_equal(bomb, "7")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bomb", [r"9^{9^{9}}", "(a+b+c+d+e+f+g+h)^{64}"])
def test_a_hostile_formula_is_stopped_and_the_next_comparison_works(bomb):
    assert not math_equal(bomb, "x^2")
    assert math_equal("x x", "x^2")


def test_a_helper_that_was_killed_makes_no_answer_wrong():
    assert math_equal("x x", "x^2")
    process = judge()._process
    assert process is not None
    process.kill()
    process.wait()
    assert math_equal("x x", "x^2")


@pytest.mark.timeout(10)
def test_long_hostile_texts_are_searched_quickly():
    assert extract_answer(r"\boxed{" * 100_000) is None
    assert extract_answer("1," * 100_000, tuple(STYLES)) is None
    assert extract_answer("answer is " * 100_000 + "5", tuple(STYLES)) is not None


@given(st.integers(-(10**12), 10**12))
def test_an_integer_equals_itself_however_written_and_not_its_neighbour(n):
    for written in (
        str(n),
        f"{n:,}",
        f"{n}.0",
        f"${n}" if n >= 0 else str(n),
        f" {n} ",
        f"{n:+d}",
        f"n = {n}",
    ):
        assert math_equal(written, str(n)), written
        assert not math_equal(written, str(n + 1)), written


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**4))
def test_a_fraction_equals_itself_however_written(a, b):
    value = Fraction(a, b)
    if value.denominator == 1:
        return
    sign = "-" if a < 0 else ""
    for written in (f"{a}/{b}", rf"{sign}\frac{{{abs(a)}}}{{{b}}}", f"{value.numerator}/{value.denominator}"):
        assert math_equal(written, str(value)), written
        assert not math_equal(written, str(value + Fraction(1, b))), written


@settings(max_examples=300)
@given(st.text(max_size=250))
def test_any_text_is_read_without_an_exception(text):
    read_number(text)
    assert math_equal(text, "1234567") in (True, False)
    extract_answer(rf"\boxed{{{text}}}", tuple(STYLES))


async def test_the_reward_judges_the_final_turn():
    assert await correct.score(episode(56088, "", r"\boxed{56088}")) == 1.0
    assert await correct.score(episode("56088", r"\boxed{56088}", "never mind")) == 0.0
    assert await correct.score(episode("56088", "56088")) == 0.0
    assert await correct.score(episode("56088")) == 0.0
    assert await correct.score(episode(r"\sqrt{8}", r"\boxed{2\sqrt{2}}")) == 1.0


async def test_a_task_without_an_answer_is_the_users_mistake():
    with pytest.raises(DefinitionError, match=r"task\.answer"):
        await correct.score(episode(None, r"\boxed{1}"))

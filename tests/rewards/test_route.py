"""The rewards of Router-R1, with the worked numbers of the method."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl import Call, ConfigError, DefinitionError, Observation, Task, Trajectory, Turn
from agentrl.rewards import words
from agentrl.rewards.route import (
    CostRange,
    CostWindow,
    RouterR1,
    extract_answer,
    form_problem,
    gated,
    transcript,
)
from agentrl.scoring import score_episode

MODELS = ("big", "qwen/small-7b")
GOOD = (
    "<think>Who knows?</think><search>big: Capital of France?</search>"
    "<information></information><think>Good.</think><answer>Paris</answer>"
)


# ---- text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normal"),
    [("The  Beatles!", "beatles"), ("an U.S.A. team", "usa team"), ("Theatre", "theatre"), ("a, the", "")],
)
def test_answers_are_compared_as_squad_does(text, normal):
    assert words.normalize(text) == normal


def test_exact_match_and_f1():
    assert words.exact_match("the Seine", ["Loire", "Seine."]) == 1.0
    assert words.exact_match("Seine river", ["Seine"]) == 0.0
    assert words.exact_match("", ["the"]) == 0.0 and words.f1("", ["the"]) == 0.0
    assert words.f1("the Seine river", ["Seine"]) == pytest.approx(2 / 3)  # precision 1/2, recall 1
    assert words.f1("new new york", ["york new", "Boston"]) == pytest.approx(
        0.8
    )  # words count as often as both have
    assert words.f1("Loire", ["Seine"]) == 0.0


# ---- form -------------------------------------------------------------------------------------


def test_a_good_form_has_no_problem():
    assert form_problem(GOOD, MODELS) is None
    assert form_problem("\n<think>I know.</think> So: <answer></answer>\n", MODELS) is None
    assert form_problem(GOOD.replace("big", "qwen/small-7b"), MODELS) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "start with"),
        ("Paris", "start with"),
        ("Well. " + GOOD, "start with"),
        (GOOD + " Done.", "end with"),
        (GOOD.replace("<think>Who knows?</think>", ""), "start with"),
        ("<think>Hm.<answer>Paris</answer>", "does not fit"),
        ("<think><answer>Paris</think></answer>", "does not fit"),
        ("<think>a</think></think><answer>Paris</answer>", "does not fit"),
        ("<think>a<think>b</think></think><answer>Paris</answer>", "does not fit"),
        ("<think> </think><answer>Paris</answer>", "empty"),
        ("<think>a</think><answer>x</answer><answer>Paris</answer>", "2 answers"),
        ("<think>a</think></answer>", "does not fit"),
        (GOOD.replace("<information></information>", ""), "not as many"),
        ("<think>a</think><information>Paris.</information><answer>Paris</answer>", "not as many"),
        (GOOD.replace("big:", "big"), "model:query"),
        (GOOD.replace("Capital of France?", " "), "model:query"),
        (GOOD.replace("big:", ":"), "model:query"),
        (GOOD.replace("big:", "huge:"), "no model 'huge'"),
    ],
)
def test_a_wrong_form_is_named(text, words):
    assert words in (form_problem(text, MODELS) or "")


pieces = ["<think>", "</think>", "<answer>", "</answer>", "<search>", "</search>", "x", ":"]


@given(st.text(alphabet="ab<>/ \n") | st.lists(st.sampled_from(pieces)).map("".join))
def test_any_text_is_judged(text):
    problem = form_problem(text, MODELS)
    if problem is None:
        assert text.strip().startswith("<think>") and text.count("<answer>") == 1
    assert isinstance(extract_answer(text), str)


def routed(model: str, query: str, said: str = "Paris", cost: float = 0.0) -> Call:
    seen = Observation(said, metadata={"cost": cost})
    return Call("router", {"model": model, "query": query}, "c", observation=seen)


def episode(*turns: Turn, answer: object = "Paris") -> Trajectory:
    return Trajectory(Task("Capital of France?", answer=answer), "e", turns=list(turns))


def turn(text: str, *calls: Call, reasoning: str | None = None) -> Turn:
    return Turn(0, 0, 0, 0, text=text, calls=list(calls), reasoning=reasoning)


def test_an_episode_is_written_down_as_router_r1_does():
    played = episode(
        turn(
            "<think>Who knows?</think>",
            routed("big", " Capital of France?", "</think> <answer>Rome</answer>"),
        ),
        turn("<answer>Paris</answer>", reasoning="Good."),
    )
    assert transcript(played) == GOOD  # what a routed model says does not count


@pytest.mark.parametrize("status", ["malformed", "unknown", "invalid"])
def test_a_call_that_cannot_be_made_spoils_the_form(status):
    bad = Call(None, None, "c", status, Observation("?", error=True))
    played = episode(turn("<think>a</think>", bad), turn("<answer>Paris</answer>"))
    assert "model:query" in (form_problem(transcript(played), MODELS) or "")


def test_calls_of_other_tools_are_no_matter_of_form():
    other = Call("python", {"code": "1"}, "c")
    played = episode(turn("<think>a</think>", other), turn("<answer>Paris</answer>"))
    assert form_problem(transcript(played), MODELS) is None


# ---- cost -------------------------------------------------------------------------------------


def test_the_cost_stream_of_the_method():
    window = CostWindow()
    scores = []
    for raw in (16, 4, 100, 25):
        bounds = window.including(raw)
        scores.append(bounds.score(raw))
    assert scores == pytest.approx([0.5, 1.0, 0.0, 0.611511], abs=1e-6)
    assert (bounds.low, bounds.high) == pytest.approx((2.3, 9.25))


def test_the_window_forgets_the_oldest():
    window = CostWindow(size=2, raws=[1, 4, 9])
    assert window.raws == (4, 9)
    assert window.including(16) == CostWindow(raws=[9, 16]).range()
    with pytest.raises(ConfigError, match="0 costs"):
        CostWindow(size=0)


def test_a_window_without_costs_tells_nothing():
    assert CostWindow().range().score(5.0) == 0.5


costs = st.lists(st.floats(0, 1e6), min_size=1, max_size=30)


@given(costs, costs, st.randoms(use_true_random=False))
def test_a_batch_is_scored_alike_in_any_order(before, batch, rng):
    order = list(range(len(batch)))
    rng.shuffle(order)
    scores = CostWindow(raws=before).score_batch(batch)
    shuffled = CostWindow(raws=before).score_batch([batch[i] for i in order])
    assert shuffled == pytest.approx([scores[i] for i in order])
    assert all(0 <= score <= 1 for score in scores)


def test_one_by_one_the_order_matters_and_a_fixed_range_does_not():
    def stream(raws, costs):
        return {raw: costs.including(raw).score(raw) for raw in raws}

    raws = [16.0, 4.0, 100.0, 25.0]
    assert stream(raws, CostWindow()) != stream(raws[::-1], CostWindow())
    fixed = CostRange(0.0, 10.0)
    assert stream(raws, fixed) == stream(raws[::-1], fixed) == {
        16.0: pytest.approx(0.6), 4.0: pytest.approx(0.8), 100.0: 0.0, 25.0: pytest.approx(0.5),
    }  # fmt: skip


# ---- the sum ----------------------------------------------------------------------------------


def test_the_gate_of_the_method():
    assert gated(0, 1, 0.8, 0.6) == pytest.approx(0.88)
    assert gated(-1, 1, 0.8, 0.6) == -1
    assert gated(0, 0, 1.0, 0.6) == 0
    assert gated(0, 1, 0.8, 0.0) == 1
    assert gated(0, 2 / 3, 0.5, 0.6) == pytest.approx(0.4 * 2 / 3 + 0.3)


async def test_the_components_of_an_episode():
    rewards = RouterR1(MODELS, cost_weight=0.6, costs=CostRange(0.0, 10.0)).components()
    played = episode(
        turn("<think>a</think>", routed("big", "?", cost=3.0), routed("qwen/small-7b", "?", cost=1.0)),
        turn("<think>b</think><answer>paris.</answer>"),
    )
    await score_episode(played, list(rewards))
    assert played.rewards == {"exact": 1.0, "f1": 1.0, "form": 0.0, "cost": 0.8, "route": pytest.approx(0.88)}
    assert played.reward == pytest.approx(0.88)
    assert played.metadata == {"cost": {"raw": 4.0, "low": 0.0, "high": 10.0}}


async def test_f1_pays_for_a_part_and_a_list_holds_several_answers():
    [*_, route] = rewards = RouterR1(MODELS, quality="f1").components()
    played = episode(turn("<think>b</think><answer>Paris, France</answer>"), answer=["Lutetia", "Paris"])
    await score_episode(played, list(rewards))
    assert played.rewards["exact"] == 0.0 and await route.score(played) == pytest.approx(2 / 3)


async def test_a_right_answer_in_the_wrong_form_is_paid_as_a_wrong_form():
    played = episode(turn("<answer>Paris</answer>"))
    await score_episode(played, list(RouterR1(MODELS).components()))
    assert played.rewards["exact"] == 1.0 and played.reward == -1.0
    assert "start with" in played.metadata["form_problem"]


async def test_a_window_learns_once_per_episode_and_the_record_tells_its_bounds():
    window, rng = CostWindow(), random.Random(0)
    rewards = list(RouterR1(MODELS, cost_weight=0.5, costs=window).components())
    raws = [rng.uniform(0, 100) for _ in range(20)]
    for raw in raws:
        played = episode(
            turn("<think>a</think>", routed("big", "?", cost=raw)),
            turn("<think>b</think><answer>Paris</answer>"),
        )
        await score_episode(played, rewards)
        told = played.metadata["cost"]
        again = CostRange(told["low"], told["high"]).score(told["raw"])
        assert played.reward == gated(0, 1, again, 0.5)
    assert window.raws == pytest.approx(tuple(raws))


async def test_a_task_without_an_answer_is_told():
    with pytest.raises(DefinitionError, match=r"task\.answer"):
        await score_episode(episode(turn("x"), answer=None), list(RouterR1(MODELS).components()))


@pytest.mark.parametrize(
    ("options", "words"), [({"quality": "bleu"}, "'exact' or 'f1'"), ({"cost_weight": 1.5}, "from 0 to 1")]
)
def test_options_that_do_not_fit(options, words):
    with pytest.raises(ConfigError, match=words):
        RouterR1(MODELS, **options)

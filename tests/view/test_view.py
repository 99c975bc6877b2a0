"""What the views make of a stream of events."""

from __future__ import annotations

import io
import math
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agentrl.errors import ConfigError
from agentrl.events import (
    DoctorReported,
    EpisodeFinished,
    EpisodeVoided,
    EvalFinished,
    StageStarted,
    StalenessReported,
    StepFinished,
    ToolCalled,
    Warned,
)
from agentrl.view.curve import draw_curve, smooth
from agentrl.view.plain import PlainView, describe
from agentrl.view.state import RunState
from agentrl.view.terminal import Heading, dashboard
from agentrl.view.text import cells, clean, duration, percent, sparkline

HEADING = Heading("math", "embedded", "grpo", "runs/one")


def step(index: int, steps: int = 10, time: float = 0.0, **metrics: float) -> StepFinished:
    return StepFinished(
        index, steps, {name.replace("__", "/"): value for name, value in metrics.items()}, time=time
    )


def seen(state: RunState, width: int = 100, now: float = 0.0) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(dashboard(state, HEADING, now))
    return console.export_text()


def test_a_run_that_has_only_started_shows_its_stage() -> None:
    state = RunState(steps=40, seed_time=100.0)
    state.add(StageStarted("starting engine", "vllm", time=100.0))
    text = seen(state, now=130.0)
    assert "starting engine  vllm" in text
    assert "30s so far · 30s in this stage" in text
    assert "step 0/40" in text
    assert "reward" not in text


@pytest.mark.parametrize("width", [40, 79, 80, 200])
def test_the_panel_fits_any_width(width: int) -> None:
    state = full_state()
    lines = seen(state, width).splitlines()
    assert {len(line) for line in lines} == {width}


def full_state() -> RunState:
    state = RunState(steps=10, expected={"training": 8}, seed_time=0.0)
    state.add(EvalFinished(0, 0.1, 0.05, 0.2, 64, 0.1, time=1.0))
    state.add(StageStarted("training", time=1.0))
    for index in range(1, 6):
        state.add(
            step(
                index,
                time=10.0 * index,
                success__mean=index / 10,
                reward__mean=index / 10,
                time__step=10.0,
                time__generate=6.0,
                time__tools=1.0,
                time__train=2.0,
                time__sync=0.5,
                time__other=0.5,
                tokens__per_second=1234.0,
                calls__mean=2.0,
            )
        )
    for tool, status in (("add", "ok"), ("add", "error"), ("submit", "ok")):
        state.add(ToolCalled("e", 0, tool, status, 0.1, time=51.0))
    for status in ("finished", "truncated"):
        state.add(
            EpisodeFinished("e", "g", "t", 6, "train", status, 1.0, True, 1, 1, 9, 1.0, 0.5, 0.1, time=52.0)
        )
    state.add(EpisodeVoided("e", "g", "t", 6, "train", "the sandbox went away", 4, True, time=53.0))
    state.add(DoctorReported(1, True, {"tokens": "all 512 equal", "masks": "pass"}, time=11.0))
    state.add(Warned("little room is left", time=54.0))
    return state


def test_the_panel_shows_every_part_of_a_run() -> None:
    text = seen(full_state(), now=55.0)
    for expected in (
        "step 5/10",
        "50%",
        "55s so far · about 45s of steps left",
        "50.0%",
        "held-out 10.0% [5.0%, 20.0%]",
        "2 finished · 2/8 in this step · 1 truncated · 1 voided",
        "the sandbox went away",
        "3 calls · 33% errors",
        "add 2 (50% errors)",
        "1,234 tokens/s · 10s a step · 2.0 calls an episode",
        "■ generation 60%",
        "■ weight sync 5.0%",
        "pass  2 checks at step 1",
        "! little room is left",
        "runs/one",
    ):
        assert expected in text, expected


def test_a_failed_check_stays_visible_after_later_passes() -> None:
    state = full_state()
    state.add(DoctorReported(2, False, {"masks": "3 tokens too many"}))
    assert "fail  step 2: masks: 3 tokens too many" in seen(state)
    state.add(DoctorReported(3, True, {"masks": "pass"}))
    assert "failed at an earlier step" in seen(state)


def test_names_from_a_model_cannot_act_on_the_terminal() -> None:
    state = full_state()
    state.add(ToolCalled("e", 0, "\x1b[2Jgone\r\n[bold]x", "unknown", 0.1))
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    console.print(dashboard(state, HEADING, 60.0))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[2J" not in text
    assert "�[2Jgone [bold]x" in text
    assert clean("a\x07b\u202ec\nd", 20) == "a�b�c d"
    assert clean("x" * 30, 10) == "xxxxxxxxx…"


def test_invented_tool_names_do_not_use_up_memory() -> None:
    state = RunState()
    for index in range(1000):
        state.add(ToolCalled("e", 0, f"tool-{index}", "unknown", 0.0))
    assert len(state.tools) <= 65
    assert sum(use.calls for use in state.tools.values()) == state.calls.calls == 1000


def test_numbers_that_are_none_are_left_out() -> None:
    state = RunState()
    state.add(step(1, success__mean=math.nan, reward__mean=math.inf, calls__mean=1.0))
    assert state.history[1].metrics == {"calls/mean": 1.0}
    assert "1.0 calls an episode" in seen(state)


def test_time_left_follows_the_last_steps_and_the_clock() -> None:
    state = RunState(steps=10)
    assert state.seconds_left(0.0) is None
    for index, seconds in enumerate([60.0, *[4.0] * 4], start=1):  # the first step is slow
        state.add(step(index, time=100.0, time__step=seconds))
    assert state.seconds_left(100.0) == 20.0
    assert state.seconds_left(103.0) == 17.0
    assert state.seconds_left(500.0) == 16.0  # a step may take longer, but not less than no time


def test_events_of_several_files_are_taken_in_the_order_of_their_times() -> None:
    state = RunState()
    state.add_all([StageStarted("training", time=5.0), StageStarted("starting engine", time=1.0)])
    assert state.stage == "training"


def test_before_and_after_are_the_first_and_the_newest_evaluation() -> None:
    state = RunState()
    for index, success in ((0, 0.1), (10, 0.5), (20, 0.7)):
        state.add(EvalFinished(index, success, 0.0, 1.0, 10, 0.0))
    assert state.before is not None
    assert state.after is not None
    assert (state.before.success, state.after.success) == (0.1, 0.7)
    only = RunState()
    only.add(EvalFinished(0, 0.1, 0.0, 1.0, 10, 0.0))
    assert only.after is None


def test_plain_lines_name_what_happened_and_pass_over_what_comes_by_the_thousand() -> None:
    state, stream = full_state(), io.StringIO()
    events = [
        step(
            6,
            success__mean=0.5,
            reward__mean=0.25,
            time__step=2.0,
            time__generate=1.0,
            time__train=1.0,
            truncated=0.125,
            voided=3.0,
        ),
        ToolCalled("e", 0, "add", "ok", 0.1),
        DoctorReported(6, False, {"masks": "3 tokens too many", "tokens": "pass"}),
        EpisodeVoided("e", "g", "t", 6, "train", "gone", 1, False),
    ]
    state.add_all(events)
    with PlainView(stream, HEADING) as view:
        view.update(state, events)
    first, second, third = stream.getvalue().splitlines()
    assert first.endswith("agentrl: math · embedded · grpo; run folder runs/one")
    assert "step 6/10  success 50.0%  reward +0.250  2.0s (generation 50%, training 50%)" in second
    assert "truncated 12%  voided 3" in second
    assert third.endswith("doctor at step 6: FAIL masks: 3 tokens too many")
    assert describe(Warned("a\nb"), state) == "warning: a b"


def test_sparklines_average_and_scale() -> None:
    assert sparkline([0.0, 1.0], 10) == "▁█"
    assert sparkline([0.0, 0.0, 1.0, 1.0], 2) == "▁█"
    assert sparkline([0.5, 0.5], 5, 0.0, 1.0) == "▅▅"
    assert sparkline([3.0], 5) == "▁"
    assert sparkline([], 5) == sparkline([1.0], 0) == ""


@given(st.lists(st.floats(-1e6, 1e6), max_size=80), st.integers(1, 40))
def test_a_sparkline_never_exceeds_its_width(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) == min(len(values), width)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8).filter(sum), st.integers(0, 200))
def test_cells_of_a_bar_add_up(weights: list[int], width: int) -> None:
    shares = [weight / sum(weights) for weight in weights]
    counts = cells(shares, width)
    assert sum(counts) == width
    assert all(abs(count - share * width) <= 1 for count, share in zip(counts, shares, strict=True))


def test_durations_and_percentages_are_short() -> None:
    assert [duration(s) for s in (0.42, 9.97, 59.6, 185, 7620)] == [
        "0.4s",
        "10s",
        "1m 00s",
        "3m 05s",
        "2h 07m",
    ]
    assert [percent(p) for p in (0, 0.031, 0.0999, 0.42, 1)] == ["0%", "3.1%", "10%", "42%", "100%"]


def pixels(path: Path) -> tuple[int, int, set[bytes]]:
    """Width, height and the colours of a PNG's pixels, checked chunk by chunk."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    position, body, width, height = 8, b"", 0, 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 4])
        kind, content = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        assert zlib.crc32(kind + content) == int.from_bytes(
            data[position + 8 + length : position + 12 + length]
        )
        if kind == b"IHDR":
            width, height = int.from_bytes(content[:4]), int.from_bytes(content[4:8])
        body += content if kind == b"IDAT" else b""
        position += 12 + length
    assert kind == b"IEND"
    from PIL import Image

    with Image.open(path) as image:
        raw = image.convert("RGB").tobytes()
    colours = {raw[i : i + 3] for i in range(0, len(raw), 3)}
    assert len(zlib.decompress(body)) > width * height
    return width, height, colours


def test_the_learning_curve_is_a_picture_with_both_series(tmp_path: Path) -> None:
    state = full_state()
    state.add(EvalFinished(10, 0.9, 0.8, 0.95, 64, 0.9))
    draw_curve(state, tmp_path / "curve.png", "math")
    width, height, colours = pixels(tmp_path / "curve.png")
    assert width > 800
    assert height > 400
    assert bytes.fromhex("2a78c2") in colours
    assert bytes.fromhex("c2410c") in colours


@pytest.mark.parametrize("steps", [0, 1, 100])
def test_a_curve_can_be_drawn_of_any_number_of_steps(tmp_path: Path, steps: int) -> None:
    state = RunState()
    for index in range(1, steps + 1):
        state.add(step(index, steps, success__mean=index / steps))
    draw_curve(state, tmp_path / "curve.png", "math")
    _, _, colours = pixels(tmp_path / "curve.png")
    assert (bytes.fromhex("2a78c2") in colours) == (steps > 0)


def test_a_curve_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        draw_curve(full_state(), tmp_path / "nowhere" / "curve.png", "math")


def test_smoothing_keeps_constants_and_centres() -> None:
    assert smooth([2.0] * 5, 3) == [2.0] * 5
    assert smooth([0.0, 3.0, 0.0, 3.0], 3) == [1.5, 1.0, 2.0, 1.5]


def test_staleness_is_shown_by_step_and_what_was_given_up_is_counted_over_the_run() -> None:
    state = RunState(steps=9)
    first = StalenessReported(1, 2, {"0": 10}, {"void": 1}, ["a"], time=1.0)
    second = StalenessReported(2, 2, {"0": 1, "2": 3}, {"stale": 2, "void": 1}, ["b"], time=2.0)
    state.add_all([first, second])
    assert "0 behind 25%, 2 behind 75%  (bound 2) · groups given up: 2 stale, 2 void" in seen(state)
    assert describe(first, state) == "staleness at step 1: 0 behind 100%; groups given up: 1 void"
    assert describe(StalenessReported(3, 2, {"1": 4}, {}, []), state) == "staleness at step 3: 1 behind 100%"

"""A step's numbers, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from agentrl.doctor import Row
from agentrl.train.metrics import FROM_VERL, step_metrics


def row(key: str, **changes: Any) -> Row:
    episode: dict[str, Any] = {
        "status": "finished", "reward": 1.0, "success": True, "rewards": {"exact": 1.0}, "calls": 2,
        "call_errors": 0, "turns": 3, "tokens": 10, "generate_seconds": 3.0, "tool_seconds": 1.0,
        "prompt_tokens": 40, "cached_tokens": 10, "row_tokens": 50, "interrupted": 1, **changes,
    }  # fmt: skip
    return Row(key=key, episode=episode, ledger=[], columns={})


ROWS = [
    row("t_0_0"),
    row("t_1_0", reward=0.0, success=False, rewards={"exact": 0.0, "style": 0.5}, missing=["judged"],
        calls=4, call_errors=3, tokens=30, generate_seconds=3.0, tool_seconds=1.0, status="truncated"),
]  # fmt: skip
TIMING = {
    "gen": 6.0, "old_log_prob": 1.0, "ref": 0.5, "values": 0.25, "adv": 0.25, "update_critic": 1.0,
    "update_actor": 2.0, "update_weights": 0.75, "save_checkpoint": 1.25, "step": 14.0,
}  # fmt: skip


def test_the_numbers_of_a_step() -> None:
    numbers = step_metrics(ROWS, {}, TIMING, expected=4)
    assert numbers == pytest.approx(
        {
            "engine/prefix_hit_rate": 0.25,
            "turns/forced": 0.0,
            "turns/interrupted": 2.0,
            "reward/mean": 0.5,
            "success/mean": 0.5,
            "calls/mean": 3.0,
            "calls/error_share": 0.5,
            "turns/mean": 3.0,
            "tokens/mean": 20.0,
            "tokens/per_second": 40 / 6,
            "tokens/trained_per_second": 100 / 5,
            "truncated": 0.5,
            "voided": 2.0,
            "time/step": 14.0,
            "time/generate": 4.5,
            "time/tools": 1.5,
            "time/train": 5.0,
            "time/sync": 0.75,
            "time/checkpoint": 1.25,
            "time/other": 1.0,
            "reward/exact": 0.5,
            "reward/style": 0.5,
            "reward/judged/missing": 0.5,
        }
    )
    assert all(type(value) is float for value in numbers.values())


def test_an_episode_of_several_rows_counts_once() -> None:
    rewritten = [*ROWS, row("t_0_1"), row("t_0_2")]
    assert step_metrics(rewritten, {}, TIMING, expected=4) == step_metrics(ROWS, {}, TIMING, expected=4)


def test_a_step_in_which_everything_was_void_has_numbers_too() -> None:
    numbers = step_metrics([], {}, {}, expected=8)
    assert numbers["voided"] == 8.0
    assert {name: value for name, value in numbers.items() if value} == {"voided": 8.0}


def test_episodes_without_tools_spend_all_their_time_generating() -> None:
    quick = [row("t_0_0", calls=0, generate_seconds=0.0, tool_seconds=0.0)]
    numbers = step_metrics(quick, {}, {"gen": 2.0, "step": 2.0}, expected=1)
    assert (numbers["time/generate"], numbers["time/tools"], numbers["calls/error_share"]) == (2.0, 0.0, 0.0)


def test_parts_that_overlap_leave_nothing_negative() -> None:
    assert step_metrics(ROWS, {}, {"gen": 6.0, "step": 5.0}, expected=2)["time/other"] == 0.0


def test_verls_metrics_come_by_our_names_and_the_rest_is_left_out() -> None:
    numbers = step_metrics(ROWS, {"actor/pg_loss": 3, "actor/lr": 1e-6, "perf/mfu": 0.4}, {}, expected=2)
    assert (numbers["actor/loss"], numbers["actor/learning_rate"]) == (3.0, 1e-6)
    assert not {"perf/mfu", "actor/pg_loss"} & set(numbers)
    assert len(set(FROM_VERL.values())) == len(FROM_VERL)

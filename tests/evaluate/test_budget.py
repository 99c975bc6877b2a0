"""Success against tokens: worked numbers, and what the command says of evaluations."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from agentrl.cli.main import app
from agentrl.config import load_config
from agentrl.errors import DataError
from agentrl.evaluate.budget import Attempt, Curve, budgets
from agentrl.store import RunFolder


def test_attempts_are_made_one_after_another_until_one_solves_the_task() -> None:
    """10 tokens that fail and 20 that do not: solved after 20 or, where the failure comes first, after 30."""
    curve = Curve.of("a", [[(10, False), (20, True)]], draws=2000)
    assert [curve.solved(tokens) for tokens in (10, 19, 30)] == [0, 0, 1]
    assert curve.solved(20) == pytest.approx(0.5, abs=0.05)
    assert (curve.attempts, curve.tokens, curve.reach) == (2, 15, 30)
    assert curve.solved(31) is None, "more was not measured"


def test_a_long_attempt_beside_short_ones_of_the_same_cost() -> None:
    short = Curve.of("short", [[(10, True)] * 4, [(10, False)] * 4])
    long = Curve.of("long", [[(40, True)], [(40, True)]])
    assert [(short.solved(tokens), long.solved(tokens)) for tokens in (10, 39, 40)] == [
        (0.5, 0),
        (0.5, 0),
        (0.5, 1),
    ]
    grid = budgets([short, long])
    assert grid[0] == 1 and grid[-1] == 40 and grid == sorted(grid)


TASKS = st.lists(
    st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=4), min_size=1, max_size=4
)


@given(TASKS)
def test_more_tokens_never_solve_less_and_all_of_them_what_any_attempt_solved(
    tasks: list[list[Attempt]],
) -> None:
    curve = Curve.of("a", tasks, draws=5)
    shares = [curve.solved(tokens) for tokens in range(int(curve.reach) + 1)]
    assert all(a <= b for a, b in itertools.pairwise(shares) if a is not None and b is not None)
    whole = sum(cost < float("inf") for cost in curve.costs) / len(curve.costs)
    assert whole == pytest.approx(sum(any(solved for _, solved in task) for task in tasks) / len(tasks))


def test_without_an_attempt_there_is_nothing_to_say() -> None:
    with pytest.raises(DataError, match="a has no episode"):
        Curve.of("a", [[]])


# ---- the command


def evaluation(root: Path, tasks: Sequence[Sequence[Attempt]], *more: str) -> RunFolder:
    run = RunFolder.create(root, "math", load_config("math", [f"runs={root}"]), kind="eval")
    lines = [
        json.dumps(
            {"position": place, "status": "finished", "tokens": tokens, "success": solved, "turns": []}
        )
        for place, attempts in enumerate(tasks)
        for tokens, solved in attempts
    ]
    run.episodes.write_text("\n".join([*lines, *more]) + "\n")
    return run


def call(root: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["budget", *words, "--runs", str(root)])


def test_evaluations_are_compared_and_drawn(tmp_path: Path) -> None:
    void = json.dumps({"position": 0, "status": "void", "tokens": 99, "success": False})
    one = evaluation(tmp_path, [[(10, True)] * 2, [(10, False)] * 2], void)
    other = evaluation(tmp_path, [[(20, True)], [(20, True)]])
    done = call(tmp_path, one.name, other.name, "--json", "--plot", str(tmp_path / "both.png"))
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [run["solved"][-1] for run in told["runs"]] == [0.5, 1.0] and told["budgets"][-1] == 20
    assert [(run["tasks"], run["attempts"], run["tokens"]) for run in told["runs"]] == [
        (2, 2, 10),
        (2, 1, 20),
    ]
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    shown = call(tmp_path, one.name, other.name).output
    assert "2 tasks, 2 attempts at each" in shown and "100.0%" in shown and "50.0%" in shown


def test_what_is_no_evaluation_is_told(tmp_path: Path) -> None:
    trained = RunFolder.create(tmp_path, "math", load_config("math", [f"runs={tmp_path}"]))
    done = call(tmp_path, trained.name)
    assert done.exit_code == 2 and "is no evaluation" in done.output
    broken = evaluation(tmp_path, [[(1, True)]], "{")
    done = call(tmp_path, broken.name)
    assert done.exit_code == 2 and "episodes.jsonl:2" in done.output.replace("\n", "")
    done = call(tmp_path, broken.name, broken.name)
    assert done.exit_code == 2 and "named twice" in done.output
    done = call(tmp_path, broken.name, "--plot", "x.txt")
    assert done.exit_code == 2 and ".png" in done.output

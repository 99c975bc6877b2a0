"""How far a warm-up is, where no terminal shows bars."""

from __future__ import annotations

import io

from rich.console import Console

from agentrl.cli.models import follower, warmup_bars
from agentrl.train.warmup import Progress


def test_a_log_gets_ten_lines_for_each_stage() -> None:
    out = io.StringIO()
    with warmup_bars(Console(file=out)) as bars:
        follow = follower(bars)
        for done in range(1, 31):
            follow(Progress("demonstrations", done, 30))
        for done in range(1, 26):
            follow(Progress("training", done, 25, loss=1.5))
    lines = [line for line in out.getvalue().splitlines() if line]
    assert lines[:2] == ["warm-up: demonstrations 3/30", "warm-up: demonstrations 6/30"]
    assert lines[9] == "warm-up: demonstrations 30/30"
    assert lines[-1] == "warm-up: training 25/25, loss 1.500" and len(lines) == 10 + 13

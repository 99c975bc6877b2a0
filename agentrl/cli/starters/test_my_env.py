"""Tests of my_env; run them with pytest. No model is needed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agentrl.inspect import audit, check
from agentrl.registry import find_env

FILE = str(Path(__file__).with_name("my_env.py"))


def test_it_is_well_made_and_the_expert_solves_it() -> None:
    report = asyncio.run(check(FILE, tasks=8))
    assert not report.failed
    assert report.scores["expert"].success == 1.0
    assert report.scores["nothing"].success == 0.0


def test_nobody_is_paid_without_doing_the_task() -> None:
    assert not asyncio.run(audit(find_env(FILE), tasks=4)).found

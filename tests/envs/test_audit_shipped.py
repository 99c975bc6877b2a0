"""Every environment that ships passes the exploit audit."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from agentrl.cli.settings import load
from agentrl.inspect import audit
from agentrl.sandbox import open_sandbox

SHIPPED: dict[str, str] = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())[
    "project"
]["entry-points"]["agentrl.envs"]

OPEN = {"dataset", "gym", "openenv"}  # they have no tasks of their own to audit

TASKS = 10  # so many that a single lucky guess is no finding

FEW = {"swe": 4, "textworld": 4, "vision": 4, "web": 2}
"""Where each episode has a sandbox session or a page of its own; one lucky guess would be a finding there."""

SETTINGS: dict[str, list[str]] = {
    "math": ["env_options={size: 200}"],
    "office": ["env_options={difficulty: 2, size: 80}"],
    "retail": ["env_options={difficulty: 2, size: 80}"],
    "swe": ["env_options={size: 200}"],
    "textworld": ["env_options={difficulty: 1, size: 40}"],  # games are made, a second or two each
    "web": ["env_options={size: 40, kinds: [click-checkboxes-transfer, enter-text]}"],
}
"""What keeps an environment's tasks few, or stands in for a service it needs."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in OPEN])
async def test_no_attack_is_paid(name: str) -> None:
    config, env = load(SHIPPED[name], SETTINGS.get(name, []))
    async with open_sandbox() as sandbox:
        report = await audit(env, config.rollout, tasks=FEW.get(name, TASKS), sandbox=sandbox)
    paid = [(found.attack.name, found.gain, found.problem) for found in report.found]
    assert not paid
    assert len(report.outcomes) > 30

"""The attacks of a shared collection, where there is one."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path

from agentrl.sandbox.conformance import Attack, read_attacks


def shared_attacks(tools: Container[str]) -> tuple[Attack, ...]:
    """Those on these tools."""
    folder = os.environ.get("AGENTRL_SHARED") or Path(__file__).resolve().parents[2] / "../shared"
    file = Path(folder) / "attacks" / "attacks.jsonl"
    found = read_attacks(file) if file.exists() else ()
    return tuple(attack for attack in found if attack.tool in tools)

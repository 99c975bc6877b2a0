"""The file that tells verl which agent loop to instantiate."""

from __future__ import annotations

from pathlib import Path

import yaml

from agentrl.train.resolve import AGENT_LOOP


def write_agent_loop_file(folder: Path) -> None:
    """Write ``agent_loop.yaml`` into a run folder."""
    entry = {"name": AGENT_LOOP, "_target_": "agentrl.train.agent_loop.EpisodeLoop", "run": str(folder)}
    (folder / "agent_loop.yaml").write_text(yaml.safe_dump([entry]))

"""Runs a fake training under the real loop, as a process that signals can be sent to."""

from __future__ import annotations

import sys
from pathlib import Path

from fake_training import FakeTraining
from rich.console import Console

from agentrl.cli.train import watch
from agentrl.config import validate
from agentrl.store import RunFolder

if __name__ == "__main__":
    FakeTraining.behaviour = sys.argv[2]
    settings = validate({"env": "counting", "steps": 12})
    run = RunFolder.create(Path(sys.argv[1]), "counting", settings)
    sys.exit(
        watch(settings, run, FakeTraining(settings, run.path, run.path), Console(), plain="plain" in sys.argv)
    )

"""What every process of a run makes from the run folder: settings, environment, sandbox, events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from agentrl.config import TrainConfig, validate
from agentrl.env import Env
from agentrl.errors import SandboxUnavailable
from agentrl.events import FileSink
from agentrl.registry import find_env

if TYPE_CHECKING:
    from agentrl.sandbox import Sandbox

GIVEN_VARIABLES = "AGENTRL_VARIABLES"
"""In the driver: names of the variables, separated by commas, that every process of a run is given."""


@dataclass
class Runtime:
    """The parts of a run that its processes share by description."""

    config: TrainConfig
    env: Env
    sandbox: Sandbox | None
    events: FileSink


def load_runtime(folder: Path, *, role: str) -> Runtime:
    """Make a process's share of a run.

    Args:
        folder: the run folder, which holds ``config.yaml``.
        role: names the process's event file.
    """
    config = validate(yaml.safe_load((folder / "config.yaml").read_text()))
    return Runtime(
        config=config,
        env=find_env(config.env, config.environment_options),
        sandbox=open_sandbox_if_any(config),
        events=FileSink(folder / "events", role),
    )


def open_sandbox_if_any(config: TrainConfig) -> Sandbox | None:
    """The configured sandbox, or ``None`` where this machine has none.

    An environment may need none; a tool that asks for one then gets a clear error. A backend
    that was asked for by name must exist.
    """
    from agentrl.sandbox import open_sandbox

    try:
        return open_sandbox(config.sandbox.backend, **config.sandbox.options)
    except SandboxUnavailable:
        if config.sandbox.backend != "auto":
            raise
        return None

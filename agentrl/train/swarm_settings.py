"""What a run must be like to share episodes with others."""

from __future__ import annotations

from agentrl.agent import AgentEnv
from agentrl.config import TrainConfig
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.train.algorithm import Plan
from agentrl.train.replay import SwarmReplay


def check_shared(plan: Plan, config: TrainConfig, env: Env) -> None:
    """Refuse runs whose episodes cannot be told again.

    Raises:
        ConfigError: the mode is another than sync, the step has a single group, or the environment's episodes
            are played by an agent of its own.
    """
    if not isinstance(plan.replay, SwarmReplay):
        return
    name = f"algorithm.name={config.algorithm.name} shares episodes (algorithm.replay.name=swarm)"
    if config.mode != "sync":
        raise ConfigError(f"{name}, which takes mode=sync; this is mode={config.mode}.")
    if config.algorithm.tasks_per_step < 2:
        raise ConfigError(
            f"{name}, so algorithm.tasks_per_step must be 2 or more: one group is the run's own."
        )
    if isinstance(env, AgentEnv):
        raise ConfigError(f"{name}, and an agent of environment {env.name}'s own cannot be told what to say.")

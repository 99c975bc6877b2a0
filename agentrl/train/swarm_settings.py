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
        ConfigError: the mode is another than sync, the step has a single group, groups would have other
            sizes or episodes other beginnings than they had, or an agent of the environment's plays them.
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
    groups = plan.algorithm.groups
    rollout = plan.algorithm.rollout
    fits = {
        "algorithm.groups.adaptive_size=false": not groups.adaptive_size,
        "algorithm.groups.adaptive_length=false": not groups.adaptive_length,
        "algorithm.groups.improve=null": groups.improve is None,
        "algorithm.rollout=null": rollout is None or rollout.name != "stored_starts",
    }
    wanted = ", ".join(setting for setting, fit in fits.items() if not fit)
    if wanted:
        raise ConfigError(f"{name}, whose episodes are told again as they were played. It wants {wanted}.")
    if isinstance(env, AgentEnv):
        raise ConfigError(f"{name}, and an agent of environment {env.name}'s own cannot be told what to say.")

"""The rollout: episodes played turn by turn, with limits, into exact trajectories.

:class:`EpisodeRunner` plays one episode, :func:`run_episodes` many at once; a :class:`Policy` is
what they sample from. Training, evaluation, benchmarks and demonstrations all use this loop.
"""

from __future__ import annotations

from agentrl.rollout.admission import Admission, Gauge, Load, LoadGauge, MemoryGauge
from agentrl.rollout.cohorts import Stragglers
from agentrl.rollout.episode import EpisodeRunner, succeeded
from agentrl.rollout.order import Lengths, group_jobs, longest_first
from agentrl.rollout.policy import Generation, Policy, Sampling, Scene, SceneAware, SimulatedPolicy
from agentrl.rollout.scheduler import Job, Progress, run_episodes
from agentrl.rollout.scripted import Script, ScriptedPolicy, expert_of, written
from agentrl.rollout.seeds import derive_seed, episode_seed

__all__ = [
    "Admission",
    "Gauge",
    "Lengths",
    "Load",
    "LoadGauge",
    "MemoryGauge",
    "Stragglers",
    "group_jobs",
    "longest_first",
    "EpisodeRunner",
    "Generation",
    "Job",
    "Policy",
    "Progress",
    "Sampling",
    "Scene",
    "SceneAware",
    "Script",
    "ScriptedPolicy",
    "SimulatedPolicy",
    "derive_seed",
    "episode_seed",
    "expert_of",
    "run_episodes",
    "succeeded",
    "written",
]

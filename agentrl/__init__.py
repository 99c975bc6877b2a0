"""agentrl: train language-model agents that use tools, by reinforcement learning.

This is the vocabulary that tools, environments and rewards are written in. Importing it
loads no torch, verl, ray, vllm or transformers.
"""

from __future__ import annotations

from agentrl.agent import AgentEnv
from agentrl.data import read_rows, read_split
from agentrl.env import Env, Expert
from agentrl.errors import (
    AgentRLError,
    ConfigError,
    DataError,
    DefinitionError,
    InfrastructureError,
    ModelError,
    NoVerdict,
    SandboxUnavailable,
    SessionLost,
    ToolError,
    UsageError,
)
from agentrl.observation import Image, Observation
from agentrl.reward import Reward, reward
from agentrl.schedules import schedule
from agentrl.snapshot import Snapshot
from agentrl.splits import Splits, split_size
from agentrl.task import Task
from agentrl.template import Template
from agentrl.terms import Term, gate
from agentrl.tool import Tool, ToolContext, ToolSet, tool
from agentrl.trajectory import Call, Message, Segment, Trajectory, Turn, call, say

__all__ = [
    "AgentEnv",
    "AgentRLError",
    "Call",
    "ConfigError",
    "DataError",
    "DefinitionError",
    "Env",
    "Expert",
    "Image",
    "InfrastructureError",
    "Message",
    "ModelError",
    "NoVerdict",
    "Observation",
    "Reward",
    "SandboxUnavailable",
    "Segment",
    "SessionLost",
    "Snapshot",
    "Splits",
    "Task",
    "Template",
    "Term",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolSet",
    "Trajectory",
    "Turn",
    "UsageError",
    "call",
    "gate",
    "read_rows",
    "read_split",
    "reward",
    "say",
    "schedule",
    "split_size",
    "tool",
]

__version__ = "0.1.0"

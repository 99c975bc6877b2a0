"""agentrl: train language-model agents that use tools, by reinforcement learning.

This is the vocabulary that tools, environments and rewards are written in. Importing it
loads no torch, verl, ray, vllm or transformers.
"""

from __future__ import annotations

from agentrl.agent import AgentEnv
from agentrl.data import read_rows
from agentrl.env import Env, Expert
from agentrl.errors import (
    AgentRLError,
    ConfigError,
    DataError,
    DefinitionError,
    InfrastructureError,
    ModelError,
    SandboxUnavailable,
    SessionLost,
    ToolError,
    UsageError,
)
from agentrl.observation import Image, Observation
from agentrl.reward import Reward, reward
from agentrl.task import Task
from agentrl.tool import Tool, ToolContext, tool
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
    "Observation",
    "Reward",
    "SandboxUnavailable",
    "Segment",
    "SessionLost",
    "Task",
    "Tool",
    "ToolContext",
    "ToolError",
    "Trajectory",
    "Turn",
    "UsageError",
    "call",
    "read_rows",
    "reward",
    "say",
    "tool",
]

__version__ = "0.1.0"

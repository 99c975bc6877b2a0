"""Arithmetic whose Python answers late: what the learning curves of asynchronous training play.

A call takes the time that :mod:`benchmarks.slow_world` draws on top of its own, as over a busy network.
"""

from __future__ import annotations

import asyncio

from agentrl import Observation
from agentrl.envs.math import Math
from agentrl.tools.python import Python
from benchmarks.slow_world import waiting_time


class SlowPython(Python):
    """Runs Python code, and answers late."""

    name = "python"
    calls = 0

    async def call(self, code: str) -> Observation:
        """Run Python code and show what it prints.

        Args:
            code: Python source code
        """
        self.calls += 1
        seconds = waiting_time(self.context.episode_id, self.calls)
        _, observation = await asyncio.gather(asyncio.sleep(seconds), super().call(code))
        return observation


class SlowMath(Math):
    """The math environment with a slow tool."""

    name = "slow_math"
    tools = (SlowPython(),)

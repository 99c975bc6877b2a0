"""A tool that does nothing, to measure what is around it."""

from __future__ import annotations

from agentrl import tool


@tool(parallel=True)
async def noop() -> str:
    """Do nothing."""
    return ""

"""A tool of your own.

Call it by hand:                 agentrl tools call ./my_tool.py amount=3 unit=miles
Give it to an environment:       tools = ["./my_tool.py"]
"""

from __future__ import annotations

from agentrl import ToolError, tool

METRES = {"feet": 0.3048, "miles": 1609.344}


@tool
def my_tool(amount: float, unit: str) -> str:
    """Convert a length to metres.

    Args:
        amount: how many.
        unit: the unit it is in, feet or miles.
    """
    if unit not in METRES:
        raise ToolError(f"I know {' and '.join(METRES)}, not {unit!r}.")  # the model reads this and goes on
    return f"{amount * METRES[unit]:.2f}"

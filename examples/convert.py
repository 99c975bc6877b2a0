"""A tool in a file of your own. An environment takes it by its path: tools = ["./examples/convert.py"]."""

from agentrl import ToolError, tool

METRES = {"feet": 0.3048, "miles": 1609.344}


@tool
def convert(amount: float, unit: str) -> str:
    """Convert a length to metres.

    Args:
        amount: how many.
        unit: the unit it is in, feet or miles.
    """
    if unit not in METRES:
        raise ToolError(f"I know {' and '.join(METRES)}, not {unit!r}.")  # the model reads this and goes on
    return f"{amount * METRES[unit]:.2f}"

"""How handling untrusted data fails: four kinds, each told to the model."""

from __future__ import annotations

from agentrl import ToolError


class Refused(ToolError):
    """What was asked for is not allowed, or larger than allowed."""


class Interrupted(ToolError):
    """It took too long, or used too much memory or disk, and was stopped."""


class Invalid(ToolError):
    """The request or the data is not well formed: a syntax error, a broken file."""


class Unanswered(ToolError):
    """The code in the sandbox gave no answer that can be read."""

"""Data that nobody vouches for: databases, images, archives and addresses, handled where they can do no harm.

Files are opened by code that runs inside the episode's sandbox session (`embedded` databases, `images`,
`archives`); `postgres` lends each episode a database of its own; `web` fetches from public addresses alone.
Whatever goes wrong is a `ToolError` of one of four kinds, with words for the model.
"""

from __future__ import annotations

from agentrl.tools.untrusted.errors import Interrupted, Invalid, Refused, Unanswered
from agentrl.tools.untrusted.table import Table

__all__ = ["Interrupted", "Invalid", "Refused", "Table", "Unanswered"]

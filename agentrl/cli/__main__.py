"""``python -m agentrl.cli``: the ``agentrl`` command where it is not on the path."""

from __future__ import annotations

from agentrl.cli.main import app

app(prog_name="agentrl")

"""An environment looked at without a model: checked, attacked, or played by a person."""

from __future__ import annotations

from agentrl.inspect.audit import AuditReport, Outcome, audit

__all__ = ["AuditReport", "Outcome", "audit"]

"""An environment looked at without a model: checked, attacked, or played by a person."""

from __future__ import annotations

from agentrl.inspect.audit import AuditReport, Outcome, audit
from agentrl.inspect.check import CheckReport, Finding, Verdict, check

__all__ = ["AuditReport", "CheckReport", "Finding", "Outcome", "Verdict", "audit", "check"]

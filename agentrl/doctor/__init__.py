"""The doctor: proves, on real steps of a run, that what was trained is what was sampled."""

from __future__ import annotations

from agentrl.doctor.checks import Check, Report, examine_step
from agentrl.doctor.rows import Row

__all__ = ["Check", "Report", "Row", "examine_step"]

"""The run's certificate: everything the doctor found, on disk after every examination."""

from __future__ import annotations

import json
from pathlib import Path

from agentrl.doctor import Report

FILE = "doctor.json"


class Certificate:
    """Collects the doctor's reports into ``doctor.json`` of a run folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._reports: list[Report] = []

    def add(self, report: Report) -> None:
        """Add a report and write the file anew."""
        self._reports.append(report)
        content = {
            "passed": all(each.passed for each in self._reports),
            "checks": [
                {"name": check.name, "step": each.step, "passed": check.passed, "detail": check.detail}
                for each in self._reports
                for check in each.checks
            ],
        }
        self._path.write_text(json.dumps(content, indent=2))

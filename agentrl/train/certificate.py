"""The run's certificate: everything the doctor found, on disk after every examination."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentrl.doctor import Report

FILE = "doctor.json"


class Certificate:
    """Collects the doctor's reports into ``doctor.json`` of a run folder.

    A run that is gone on with keeps what was found before.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._checks: list[dict[str, Any]] = []
        if self._path.is_file():
            self._checks = json.loads(self._path.read_text())["checks"]

    def add(self, report: Report) -> None:
        """Add a report and write the file anew."""
        self._checks += [
            {"name": check.name, "step": report.step, "passed": check.passed, "detail": check.detail}
            for check in report.checks
        ]
        content = {"passed": all(check["passed"] for check in self._checks), "checks": self._checks}
        self._path.write_text(json.dumps(content, indent=2))

"""Structured logs: one JSON object a line, for machines; or plain lines, for people."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

LogForm = Literal["json", "text", "none"]
"""How a server logs; ``none``: warnings only."""


class JsonLines(logging.Formatter):
    """A record as a JSON object: time, level, logger, message, and the facts given with it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "facts", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class PlainLines(logging.Formatter):
    """A record for a person."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, its facts behind the message."""
        facts = "".join(f" {name}={value}" for name, value in getattr(record, "facts", {}).items())
        return super().format(record) + facts


def set_up(form: LogForm) -> None:
    """Send the library's logs to standard error in this form; ``none`` shows warnings only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines() if form == "json" else PlainLines("%(asctime)s %(levelname)s %(name)s %(message)s")
    )
    logger = logging.getLogger("agentrl")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.WARNING if form == "none" else logging.INFO)

"""The text in an image: rapidocr, in an empty sandbox for each image.

Its models come in its wheel. Libraries are loaded once for all calls and shared by forks; the models are
loaded by each call.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from agentrl import ConfigError, ToolContext
from agentrl.tools.untrusted.images import MOST_BYTES, MOST_PIXELS
from agentrl.tools.untrusted.inside import LOADING_SECONDS, MARGIN_SECONDS, program, read

SECONDS = 240.0
"""For one image, the models' loading included. What counts is CPU time; this is for a crowded machine."""
MOST_OCR_PIXELS = 2_000_000
"""Of an image that is read; a larger one is shrunk first."""
LIMITS: dict[str, Any] = {
    "wall_seconds": SECONDS + MARGIN_SECONDS + LOADING_SECONDS,
    "cpu_seconds": 40.0,
    "memory_mb": 1536,
    "preload": ("cv2", "onnxruntime", "rapidocr"),
}

Side = Annotated[int, Field(ge=-(1 << 20), le=1 << 20)]


class Line(BaseModel):
    """A piece of text, how sure its reading is (from 0 to 1), and the box around it in pixels."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    text: Annotated[str, Field(max_length=400)]
    score: Annotated[float, Field(ge=0, le=1)]
    box: tuple[Side, Side, Side, Side]


class _Lines(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    lines: list[Line]


async def read_text(context: ToolContext, data: bytes) -> list[Line]:
    """The pieces of text in a PNG file, from top to bottom.

    Raises:
        Refused, Invalid, Interrupted, Unanswered: as :func:`agentrl.tools.untrusted.images.edit`.
        ConfigError: the sandbox's Python lacks rapidocr.
        SandboxUnavailable: this machine or run offers no isolation.
    """
    nonce = secrets.token_hex(16)
    request = {"path": "image.png", "most_pixels": MOST_PIXELS, "most_bytes": MOST_BYTES}
    sent = json.dumps({**request, "seconds": SECONDS, "nonce": nonce}).encode()
    try:
        result = await context.run(program("ocr"), stdin=sent, files={"image.png": data}, **LIMITS)
    except ConfigError as problem:
        raise ConfigError(
            f"The tool 'ocr' needs rapidocr: pip install 'agentrl[ocr]'. ({problem})"
        ) from problem
    return read(result, nonce, _Lines, LIMITS["wall_seconds"]).lines


def in_rows(lines: Sequence[Line]) -> str:
    """The text as it stands in the image: pieces side by side in one row, rows from top to bottom."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.box[1] + line.box[3]):
        if rows and _beside(rows[-1][0], line):
            rows[-1].append(line)
        else:
            rows.append([line])
    return "\n".join(
        "  ".join(line.text for line in sorted(row, key=lambda line: line.box[0])) for row in rows
    )


def _beside(one: Line, other: Line) -> bool:
    """Whether the middles of two pieces lie less than half a piece's height apart."""
    apart = abs(one.box[1] + one.box[3] - other.box[1] - other.box[3]) / 2
    return apart < min(one.box[3] - one.box[1], other.box[3] - other.box[1]) / 2

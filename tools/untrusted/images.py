"""Images in a session's working folder, decoded and changed inside the session with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentrl.tools.untrusted.inside import ask

if TYPE_CHECKING:
    from agentrl.sandbox import Session

Format = Literal["PNG", "JPEG", "WEBP"]
MOST_PIXELS = 24_000_000
"""Of the image, and of what each step makes of it."""
MOST_BYTES = 16 << 20
"""Of the file that is read, and of the file that is written."""

Pixels = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Crop(_Step):
    """Keep a box that lies within the image, in pixels from the left upper corner."""

    kind: Literal["crop"] = "crop"
    left: Pixels
    top: Pixels
    right: Pixels
    bottom: Pixels


class Part(_Step):
    """Keep one of ``grid * grid`` equal parts, counted row by row from 1."""

    kind: Literal["part"] = "part"
    part: int
    grid: Annotated[int, Field(ge=1, le=64)]


class Resize(_Step):
    """Make it this many pixels wide and high."""

    kind: Literal["resize"] = "resize"
    width: Pixels
    height: Pixels


class Rotate(_Step):
    """Turn it counterclockwise; it grows so that the corners stay."""

    kind: Literal["rotate"] = "rotate"
    degrees: Annotated[float, Field(ge=-360, le=360, allow_inf_nan=False)]


class Convert(_Step):
    """Make it gray (L), or coloured without (RGB) or with transparency (RGBA)."""

    kind: Literal["convert"] = "convert"
    mode: Literal["L", "RGB", "RGBA"]


class Outline(_Step):
    """Draw a rectangle's outline, with the box as in a crop."""

    kind: Literal["outline"] = "outline"
    left: Pixels
    top: Pixels
    right: Pixels
    bottom: Pixels
    color: Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")] = "#ff0000"


Step = Crop | Part | Resize | Rotate | Convert | Outline


class ImageInfo(BaseModel):
    """Size in pixels, and the format of the file that was written, or else read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    width: Annotated[int, Field(ge=1, le=MOST_PIXELS)]
    height: Annotated[int, Field(ge=1, le=MOST_PIXELS)]
    format: Literal["PNG", "JPEG", "WEBP", "GIF", "BMP"]


async def edit(
    session: Session,
    path: str,
    steps: Sequence[Step] = (),
    *,
    into: str = "",
    format: Format | None = None,
    seconds: float = 10.0,
) -> ImageInfo:
    """Decode an image wholly, change it, and write it down.

    Args:
        session: where the file lies.
        path: of a PNG, JPEG, WebP, GIF (its first picture counts) or BMP file, in the working folder.
        steps: at most 16, taken in order.
        into: where the result is written; by default nowhere, which only checks the image.
        format: of the result; by default the image's own, and PNG for GIF and BMP.
        seconds: for all of it.

    Raises:
        Refused: the file, the image, what a step makes of it or the result is too large, or a box is not
            within the image. Sizes are looked at before memory is taken.
        Invalid: it is no image of those formats, not the one that its name says, truncated or damaged.
        Interrupted: it took too long or too much memory.
        Unanswered: the code in the session gave no answer.
    """
    request = {
        "path": path,
        "steps": [step.model_dump() for step in steps[:16]],
        "into": into,
        "format": format,
        "most_pixels": MOST_PIXELS,
        "most_bytes": MOST_BYTES,
    }
    return await ask(session, "image", request, ImageInfo, seconds=seconds)

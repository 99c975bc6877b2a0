"""The images of an episode, numbered from 1, in a sandbox session of their own.

Nothing is decoded outside of it. What comes out are PNG files that the sandbox wrote itself, small enough to
be shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from agentrl import Image, ToolContext
from agentrl.tools.untrusted import Refused, Unanswered
from agentrl.tools.untrusted.images import MOST_BYTES, MOST_PIXELS, Step
from agentrl.tools.untrusted.inside import ask

if TYPE_CHECKING:
    from agentrl.sandbox import Session

MOST_IMAGES = 64
"""Of an episode."""
SECONDS = 60.0
"""For what one call does with images. What bounds work is CPU time; this is for a crowded machine."""
SESSION: dict[str, Any] = {
    "wall_seconds": 75.0,
    "cpu_seconds": 20.0,
    "memory_mb": 640,
    "disk_mb": 128,
    "processes": 8,
    "preload": (
        *(f"PIL.{name}" for name in ("ImageDraw", "ImageFont", "ImageStat")),
        *(f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Ppm", "WebP")),
    ),  # with the formats that Pillow would else load in each call
}
"""Of the session. No tool that runs a model's code asks for the same, so none shares it."""

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".mp4", ".m4v", ".mov", ".webm", ".mkv",
)  # fmt: skip
Side = Annotated[int, Field(ge=1, le=MOST_PIXELS)]
Level = Annotated[int, Field(ge=0, le=255)]


class Color(BaseModel):
    """Of a part of an image: red, green and blue from 0 to 255."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    mean: tuple[Level, Level, Level]
    common: tuple[Level, Level, Level]
    share: Annotated[float, Field(ge=0, le=1)]


class _View(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    number: Annotated[int, Field(ge=0, le=MOST_IMAGES)]
    width: Side
    height: Side
    frames: Annotated[int, Field(ge=1)]
    shown: tuple[Side, Side]
    color: Color | None


class _Views(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    views: list[_View]


@dataclass(frozen=True)
class Seen:
    """An image of the album, or made of one.

    Args:
        number: in the album; 0 if it was not kept.
        width, height: in pixels; boxes are given in these.
        frames: more than 1 for a video.
        shown: width and height as shown to the model.
        image: that.
        color: if it was asked for.
    """

    number: int
    width: int
    height: int
    frames: int
    shown: tuple[int, int]
    image: Image = field(repr=False)
    color: Color | None = None

    @property
    def text(self) -> str:
        """Its number and size, in words for the model."""
        told = f"Image {self.number}: {self.width} x {self.height}"
        if self.frames > 1:
            told += f", {self.frames} frames"
        smaller = self.shown[0] < self.width or self.shown[1] < self.height
        return f"{told}, shown at {self.shown[0]} x {self.shown[1]}" if smaller else told


@dataclass(frozen=True)
class View:
    """What to make: of which image, of which of its frames (from 1), by which steps.

    ``file`` is instead one in the session's working folder.
    """

    number: int = 1
    frame: int = 1
    steps: Sequence[Step] = ()
    color: bool = False
    file: str = ""


class Album:
    """The images of one episode. Any number of these objects stand for the same album.

    Args:
        context: the episode's; an environment's in `reset`, or a tool's.
        shown_pixels: an image is shrunk to so many before it is shown. The album keeps it as it is.
        enlarge: a smaller one is enlarged until its longer side has so many pixels.
    """

    def __init__(self, context: ToolContext, shown_pixels: int, enlarge: int = 0) -> None:
        self._context, self._shown, self._enlarge = context, shown_pixels, enlarge

    async def session(self) -> Session:
        """The session that holds the album."""
        return await self._context.sandbox(**SESSION)

    async def add(self, data: bytes, suffix: str = ".png") -> Seen:
        """Take in a file's bytes. ``suffix`` says what it ought to be.

        Raises:
            Refused, Invalid: it is too large, truncated, damaged, or not what it ought to be.
        """
        name = f"incoming{suffix}"
        if len(data) > MOST_BYTES:
            raise Refused(f"The image file has more than {MOST_BYTES} bytes.")
        await (await self.session()).put(name, data)
        return await self.adopt(name)

    async def adopt(self, file: str, made_by: str = "") -> Seen:
        """Take in a file of the session's working folder.

        Args:
            file: its path there.
            made_by: a program of ours that makes it first.

        Raises:
            Refused, Invalid: as :meth:`add`.
            Unanswered: the program raised.
        """
        [seen] = await self.look([View(file=file)], first=made_by)
        return seen

    async def look(
        self, views: Sequence[View], *, keep: bool = True, shown_pixels: int | None = None, first: str = ""
    ) -> list[Seen]:
        """Make pictures, and with ``keep`` put them into the album.

        Args:
            views: what to make.
            keep: whether they become images of their own.
            shown_pixels: instead of the album's own, and without enlarging.
            first: a program of ours that runs before.

        Raises:
            Refused, Invalid, Interrupted, Unanswered: as :func:`agentrl.tools.untrusted.images.edit`. What
                was made before a view that fails stays in the album.
        """
        session = await self.session()
        request = {
            "views": [_told(view) for view in views],
            "keep": keep,
            "shown_pixels": shown_pixels or self._shown,
            "enlarge": 0 if shown_pixels else self._enlarge,
            "most_images": MOST_IMAGES,
            "most_pixels": MOST_PIXELS,
            "most_bytes": MOST_BYTES,
        }
        made = (await ask(session, "album", request, _Views, seconds=SECONDS, first=first)).views
        if len(made) != len(views):
            raise Unanswered("The program that handled the images left some out.")
        return [await _seen(session, view, index) for index, view in enumerate(made)]


def _told(view: View) -> dict[str, Any]:
    return {**dataclasses.asdict(view), "steps": [step.model_dump() for step in view.steps]}


async def _seen(session: Session, view: _View, index: int) -> Seen:
    data = await session.get(f"shown-{index}.png", MOST_BYTES)
    return Seen(view.number, view.width, view.height, view.frames, view.shown, Image(data), view.color)

"""Look closer at the images of an episode: image in, image out, decoded and changed in the sandbox.

The environment puts the images that a task begins with into the episode's :class:`Album`; what a tool makes
of one becomes a further image of it, which is shown and can be worked on in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from agentrl import ConfigError, Observation, Tool, ToolError
from agentrl.tools.untrusted import images
from agentrl.tools.vision.album import SECONDS, Album, Seen, View
from agentrl.tools.vision.ocr import MOST_OCR_PIXELS, in_rows, read_text
from agentrl.tools.vision.ocr import SECONDS as OCR_SECONDS

__all__ = [
    "Album",
    "Crop",
    "DrawBox",
    "MeasureColor",
    "Ocr",
    "Rotate",
    "SelectFrames",
    "VisionTool",
    "Zoom",
]

SHOWN_PIXELS = 1_003_520
"""As many as Qwen's models take by default."""
BEYOND = 1_000_000
MARGIN_SECONDS = 60.0
"""A call may also have to wait for a session."""

Degrees = Annotated[float, Field(ge=-360, le=360)]
Box = Annotated[list[int], Field(min_length=4, max_length=4)]


class VisionTool(Tool):
    """Base of tools on the episode's images.

    Args:
        shown_pixels: what is shown of an image is shrunk to so many pixels. The model is told, and boxes
            stay in the image's own pixels.
        enlarge: a smaller image is shown enlarged, its longer side having so many pixels.
    """

    def __init__(self, shown_pixels: int = SHOWN_PIXELS, enlarge: int = 0) -> None:
        if shown_pixels < 1 or enlarge < 0 or enlarge**2 > shown_pixels:
            raise ConfigError(
                f"shown_pixels={shown_pixels} must be at least 1, and enlarge={enlarge} from 0 to its root."
            )
        self.shown_pixels, self.enlarge = shown_pixels, enlarge
        self.seconds = SECONDS + MARGIN_SECONDS

    @property
    def album(self) -> Album:
        """The episode's images."""
        return Album(self.context, self.shown_pixels, self.enlarge)


class Crop(VisionTool):
    """Shows a part of an image."""

    async def call(self, box: Box, image: int = 1) -> Observation:
        """Cut out a part of an image and look at it closely.

        Args:
            box: left, top, right, bottom in pixels
            image: number of the image
        """
        step = images.Crop(**_sides(box))
        return shown(await self.album.look([View(image, steps=[step])]))


class Zoom(VisionTool):
    """Shows one of the equal parts that an image is divided into.

    Args:
        grid: parts in a row, and in a column.
        shown_pixels, enlarge: as for all tools on images.
    """

    def __init__(self, grid: int = 4, shown_pixels: int = SHOWN_PIXELS, enlarge: int = 0) -> None:
        super().__init__(shown_pixels, enlarge)
        if not 1 <= grid <= 64:
            raise ConfigError(f"grid={grid} must be from 1 to 64.")
        self.grid = grid

    @property
    def description(self) -> str:
        """What the model is told."""
        return f"Show one of the {self.grid} x {self.grid} parts of an image."

    async def call(self, part: int, image: int = 1) -> Observation:
        """Show one part of an image.

        Args:
            part: counted row by row from 1
            image: number of the image
        """
        step = images.Part(part=part, grid=self.grid)
        return shown(await self.album.look([View(image, steps=[step])]))


class Rotate(VisionTool):
    """Turns an image."""

    async def call(self, degrees: Degrees, image: int = 1) -> Observation:
        """Turn an image counterclockwise.

        Args:
            degrees: from -360 to 360
            image: number of the image
        """
        return shown(await self.album.look([View(image, steps=[images.Rotate(degrees=degrees)])]))


class DrawBox(VisionTool):
    """Marks a part of an image."""

    async def call(self, box: Box, image: int = 1) -> Observation:
        """Draw a red box into a copy of an image.

        Args:
            box: left, top, right, bottom in pixels
            image: number of the image
        """
        return shown(await self.album.look([View(image, steps=[images.Outline(**_sides(box))])]))


class MeasureColor(VisionTool):
    """Tells the colours of a part of an image."""

    async def call(self, box: Box, image: int = 1) -> Observation:
        """Measure the colour of a part of an image.

        Args:
            box: left, top, right, bottom in pixels
            image: number of the image
        """
        view = View(image, steps=[images.Crop(**_sides(box))], color=True)
        [seen] = await self.album.look([view], keep=False, shown_pixels=1)
        color = seen.color
        assert color is not None
        text = f"mean #{bytes(color.mean).hex()}; {color.share:.0%} about #{bytes(color.common).hex()}"
        return Observation(text, metadata=color.model_dump())


class SelectFrames(VisionTool):
    """Shows frames of a video.

    Args:
        most: frames of one call.
        shown_pixels, enlarge: as for all tools on images.
    """

    def __init__(self, most: int = 8, shown_pixels: int = SHOWN_PIXELS, enlarge: int = 0) -> None:
        super().__init__(shown_pixels, enlarge)
        self.most = most

    async def call(self, frames: list[int], image: int = 1) -> Observation:
        """Show frames of a video.

        Args:
            frames: their numbers, from 1
            image: number of the video
        """
        if not 1 <= len(frames) <= self.most:
            raise ToolError(f"Ask for 1 to {self.most} frames at a time.")
        return shown(await self.album.look([View(image, frame) for frame in frames]))


class Ocr(VisionTool):
    """Reads the text in an image, with rapidocr in the sandbox.

    The observation's metadata holds ``lines``: the pieces of text, each with its box and score.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = SECONDS + OCR_SECONDS + MARGIN_SECONDS

    async def call(self, image: int = 1, box: Box | None = None) -> Observation:
        """Read the text in an image.

        Args:
            image: number of the image
            box: only within left, top, right, bottom in pixels
        """
        steps = [images.Crop(**_sides(box))] if box else []
        view = View(image, steps=steps)
        [seen] = await self.album.look([view], keep=False, shown_pixels=MOST_OCR_PIXELS)
        lines = await read_text(self.context, seen.image.data)
        return Observation(
            in_rows(lines) or "No text was found.", metadata={"lines": [line.model_dump() for line in lines]}
        )


def _sides(box: Sequence[int]) -> dict[str, int]:
    """The box for a step; numbers beyond all images are cut to some that are, and refused as such."""
    sides = (min(max(side, -BEYOND), BEYOND) for side in box)
    return dict(zip(("left", "top", "right", "bottom"), sides, strict=True))


def shown(pictures: Sequence[Seen]) -> Observation:
    """Pictures as a model is shown them: a line about each, and the images."""
    return Observation("\n".join(seen.text for seen in pictures), tuple(seen.image for seen in pictures))

"""Draws a picture or a video from a description. Runs in the sandbox, where Pillow is.

A description is ``{"size": [width, height], "ground": color, "marks": [...]}``, or ``{"frames": [...]}`` with
one of these for each frame. A mark is a list: its kind, then what the function of that name takes.
"""

from collections.abc import Callable
from typing import Any


def box(draw: Any, sides: "list[int]", fill: str, outline: "str | None" = None, width: int = 1) -> None:
    """A filled rectangle; right and bottom lie outside."""
    left, top, right, bottom = sides
    draw.rectangle([left, top, right - 1, bottom - 1], fill=fill, outline=outline, width=width)


def disc(draw: Any, sides: "list[int]", fill: str) -> None:
    """A filled ellipse."""
    draw.ellipse(sides, fill=fill)


def words(draw: Any, place: "list[int]", text: str, size: int, fill: str, anchor: str = "mm") -> None:
    """A line of text; ``anchor`` says what of it lies at the place, as Pillow has it."""
    from PIL import ImageFont

    draw.text(place, text, fill=fill, font=ImageFont.load_default(size), anchor=anchor)


def weave(draw: Any, sides: "list[int]", cell: int, colors: "list[str]") -> None:
    """Squares of ``cell`` pixels in four colours: two alternate in one row, the others in the next."""
    left, top, right, bottom = sides
    for row, y in enumerate(range(top, bottom, cell)):
        for column, x in enumerate(range(left, right, cell)):
            box(draw, [x, y, x + cell, y + cell], colors[row % 2 * 2 + column % 2])


MARKS: "dict[str, Callable[..., None]]" = {"box": box, "disc": disc, "words": words, "weave": weave}


def picture(description: "dict[str, Any]") -> Any:
    """One picture, as Pillow has it."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", tuple(description["size"]), description["ground"])
    draw = ImageDraw.Draw(image)
    for kind, *how in description["marks"]:
        MARKS[kind](draw, *how)
    return image


def save(description: "dict[str, Any]", stem: str) -> None:
    """Draw into the file ``stem.png``, a video into ``stem.webp``."""
    frames = [picture(frame) for frame in description.get("frames", [])]
    if frames:
        frames[0].save(f"{stem}.webp", save_all=True, append_images=frames[1:], lossless=True, method=0)
    else:
        picture(description).save(f"{stem}.png", compress_level=1)

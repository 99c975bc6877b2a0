"""Image files: opened with care, changed step by step. Sizes are computed before anything is allocated."""

import io
import math
import os
from typing import Any

_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}
_NO_ALPHA = {"JPEG"}
_BROKEN = (OSError, SyntaxError, KeyError, IndexError, TypeError, ValueError)  # Pillow's plugins raise all
_MOST_SIDE = 16_384  # pixels; tables that scaling and turning need grow with it


def _size_after(step: "dict[str, Any]", width: int, height: int) -> "tuple[int, int]":
    """The size that a step makes of an image of this size."""
    kind = step["kind"]
    if kind in ("crop", "part", "outline"):
        left, top, right, bottom = _box(step, width, height)
        return (width, height) if kind == "outline" else (right - left, bottom - top)
    if kind == "resize":
        return int(step["width"]), int(step["height"])
    if kind == "rotate":
        turn = math.radians(float(step["degrees"]))
        sine, cosine = abs(math.sin(turn)), abs(math.cos(turn))
        return math.ceil(width * cosine + height * sine) + 2, math.ceil(width * sine + height * cosine) + 2
    return width, height


def _box(step: "dict[str, Any]", width: int, height: int) -> "tuple[int, int, int, int]":
    """The box of a crop, an outline or a part, which lies within the image."""
    if step["kind"] == "part":
        part, grid = step["part"] - 1, step["grid"]
        if not 0 <= part < grid * grid:
            raise PermissionError(f"There is no part {part + 1}; they go from 1 to {grid * grid}.")
        row, column = divmod(part, grid)
        across = [width * edge // grid for edge in (column, column + 1)]
        down = [height * edge // grid for edge in (row, row + 1)]
        return across[0], down[0], across[1], down[1]
    left, top, right, bottom = (int(step[side]) for side in ("left", "top", "right", "bottom"))
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise PermissionError(
            f"The box ({left}, {top}, {right}, {bottom}) does not lie within the image of {width} x "
            f"{height} pixels: 0 <= left < right <= width and 0 <= top < bottom <= height."
        )
    return left, top, right, bottom


def _check_size(width: int, height: int, most: int) -> None:
    if width < 1 or height < 1:
        raise PermissionError(f"An image of {width} x {height} pixels has nothing in it.")
    if width * height > most or max(width, height) > _MOST_SIDE:
        raise PermissionError(
            f"An image of {width} x {height} pixels is too large; it may have {most} pixels, and "
            f"{_MOST_SIDE} on a side."
        )


def _open(path: str, most_pixels: int, most_bytes: int, frame: int = 0) -> "tuple[Any, str]":
    """An image that is there as a whole, of a video the picture with that number; and its file's format."""
    import warnings

    from PIL import Image, UnidentifiedImageError

    if not os.path.isfile(path):
        raise ValueError(f"There is no image file {path!r}.")
    if os.path.getsize(path) > most_bytes:
        raise PermissionError(f"The image file has more than {most_bytes} bytes.")
    Image.MAX_IMAGE_PIXELS = most_pixels
    warnings.simplefilter("ignore")
    try:
        image = Image.open(path, formats=tuple(dict.fromkeys(_SUFFIXES.values())))
    except Image.DecompressionBombError:
        raise PermissionError(f"The image is too large; it may have {most_pixels} pixels.") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path!r} is no image of a supported format (PNG, JPEG, WebP, GIF, BMP).") from None
    except _BROKEN as problem:
        raise ValueError(f"The image cannot be read: {problem}") from None
    found = str(image.format)
    named = _SUFFIXES.get(os.path.splitext(path)[1].lower(), found)
    if named != found:
        raise ValueError(f"The file is named as {named}, but its content is {found}.")
    _check_size(*image.size, most_pixels)
    try:
        count = getattr(image, "n_frames", 1) if frame else 1
        if 0 < frame < count:
            image.seek(frame)
        image.load()
    except _BROKEN as problem:
        raise ValueError(f"The image is truncated or damaged: {problem}") from None
    if not 0 <= frame < count:
        raise ValueError(f"There is no frame {frame + 1}; this image has {count}.")
    return image, found


def _apply(image: Any, step: "dict[str, Any]") -> Any:
    if step["kind"] in ("crop", "part"):
        return image.crop(_box(step, *image.size))
    if step["kind"] == "resize":
        return (image.convert("RGBA") if image.mode == "P" else image).resize((step["width"], step["height"]))
    if step["kind"] == "rotate":
        return image.rotate(step["degrees"], expand=True)
    if step["kind"] == "outline":
        return _outline(image, step)
    return image.convert(step["mode"])


def _outline(image: Any, step: "dict[str, Any]") -> Any:
    from PIL import ImageDraw

    marked = image.convert("RGB")
    box = [step["left"], step["top"], step["right"] - 1, step["bottom"] - 1]
    ImageDraw.Draw(marked).rectangle(box, outline=step["color"], width=max(2, max(marked.size) // 200))
    return marked


def _save(image: Any, kind: str, into: str, most_bytes: int) -> None:
    if kind in _NO_ALPHA and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    data = io.BytesIO()
    image.save(data, kind)
    if data.tell() > most_bytes:
        raise PermissionError(f"The resulting file has {data.tell()} bytes; it may have {most_bytes}.")
    with open(into, "wb") as file:
        file.write(data.getbuffer())

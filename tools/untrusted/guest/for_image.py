"""An image file, changed step by step. Sizes are computed before anything is allocated."""

import io
import math
import os
from typing import Any

_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}
_NO_ALPHA = {"JPEG"}
_MOST_SIDE = 16_384  # pixels; tables that scaling and turning need grow with it


def _size_after(step: "dict[str, Any]", width: int, height: int) -> "tuple[int, int]":
    """The size that a step makes of an image of this size."""
    kind = step["kind"]
    if kind == "crop":
        left, top, right, bottom = (int(step[side]) for side in ("left", "top", "right", "bottom"))
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise PermissionError(
                f"The box ({left}, {top}, {right}, {bottom}) does not lie within the image of {width} x "
                f"{height} pixels: 0 <= left < right <= width and 0 <= top < bottom <= height."
            )
        return right - left, bottom - top
    if kind == "resize":
        return int(step["width"]), int(step["height"])
    if kind == "rotate":
        turn = math.radians(float(step["degrees"]))
        sine, cosine = abs(math.sin(turn)), abs(math.cos(turn))
        return math.ceil(width * cosine + height * sine) + 2, math.ceil(width * sine + height * cosine) + 2
    return width, height


def _check_size(width: int, height: int, most: int) -> None:
    if width < 1 or height < 1:
        raise PermissionError(f"An image of {width} x {height} pixels has nothing in it.")
    if width * height > most or max(width, height) > _MOST_SIDE:
        raise PermissionError(
            f"An image of {width} x {height} pixels is too large; it may have {most} pixels, and "
            f"{_MOST_SIDE} on a side."
        )


def answer(request: "dict[str, Any]") -> "dict[str, Any]":
    """The size and format of ``path`` after the ``steps``; the result is in ``into``, if that is named."""
    import warnings

    from PIL import Image, UnidentifiedImageError

    path, most = request["path"], request["most_pixels"]
    if not os.path.isfile(path):
        raise ValueError(f"There is no image file {path!r}.")
    if os.path.getsize(path) > request["most_bytes"]:
        raise PermissionError(f"The image file has more than {request['most_bytes']} bytes.")
    Image.MAX_IMAGE_PIXELS = most
    warnings.simplefilter("ignore")
    try:
        image = Image.open(path, formats=tuple(dict.fromkeys(_SUFFIXES.values())))
    except Image.DecompressionBombError:
        raise PermissionError(f"The image is too large; it may have {most} pixels.") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path!r} is no image of a supported format (PNG, JPEG, WebP, GIF, BMP).") from None
    except (
        OSError,
        SyntaxError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
    ) as problem:  # Pillow's plugins raise all
        raise ValueError(f"The image cannot be read: {problem}") from None
    found = str(image.format)
    named = _SUFFIXES.get(os.path.splitext(path)[1].lower(), found)
    if named != found:
        raise ValueError(f"The file is named as {named}, but its content is {found}.")
    _check_size(*image.size, most)
    try:
        image.load()
    except (OSError, SyntaxError, KeyError, IndexError, TypeError, ValueError) as problem:
        raise ValueError(f"The image is truncated or damaged: {problem}") from None
    for step in request["steps"]:
        _check_size(*_size_after(step, *image.size), most)
        image = _apply(image, step)
    kind = str(request["format"] or (found if found in ("PNG", "JPEG", "WEBP") else "PNG"))
    if request["into"]:
        _save(image, kind, request["into"], request["most_bytes"])
    return {"width": image.width, "height": image.height, "format": kind if request["into"] else found}


def _apply(image: Any, step: "dict[str, Any]") -> Any:
    if step["kind"] == "crop":
        return image.crop((step["left"], step["top"], step["right"], step["bottom"]))
    if step["kind"] == "resize":
        return (image.convert("RGBA") if image.mode == "P" else image).resize((step["width"], step["height"]))
    if step["kind"] == "rotate":
        return image.rotate(step["degrees"], expand=True)
    return image.convert(step["mode"])


def _save(image: Any, kind: str, into: str, most_bytes: int) -> None:
    if kind in _NO_ALPHA and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    data = io.BytesIO()
    image.save(data, kind)
    if data.tell() > most_bytes:
        raise PermissionError(f"The resulting file has {data.tell()} bytes; it may have {most_bytes}.")
    with open(into, "wb") as file:
        file.write(data.getbuffer())

"""Decodes one image file, in an empty sandbox session, into bare pixels.

Reads a request from standard input and ends with one line of JSON: ``size`` of the image and whether it
``wrote`` its pixels, or why it was ``refused``. The image is the file ``image``, its pixels (RGB, 8 bits,
row by row) go to the file ``rgb``.
"""

import json
import sys
import warnings
from typing import Any

FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
BROKEN = (OSError, SyntaxError, KeyError, IndexError, TypeError, ValueError, ArithmeticError)
"""What Pillow's plug-ins raise on broken files; ``struct.error`` is a ValueError."""


def answer(request: "dict[str, Any]") -> "dict[str, Any]":
    """Decode the image, unless it is larger than ``most`` pixels and no size was asked for.

    Args:
        request: ``media_type``, which the content has to fit; ``most`` pixels to be shown; ``bomb``, the
            pixels that are decoded at most; ``resize``, a width and height, or null.
    """
    from PIL import Image, UnidentifiedImageError

    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = request["bomb"]
    named = FORMATS.get(request["media_type"])
    if named is None:
        return {"refused": f"{request['media_type']!r} is no type of image that is taken"}
    try:
        image = Image.open("image", formats=tuple(FORMATS.values()))
    except Image.DecompressionBombError:
        return {"refused": f"it has more than {request['bomb']} pixels"}
    except UnidentifiedImageError:
        return {"refused": "it is no PNG, JPEG or WebP file"}
    except BROKEN as problem:
        return {"refused": f"it cannot be read: {problem}"}
    if image.format != named:
        return {"refused": f"it is said to be {named}, but its content is {image.format}"}
    width, height = image.size
    if width < 1 or height < 1 or width * height > request["bomb"]:
        return {"refused": f"it has {width} x {height} pixels; {request['bomb']} are decoded at most"}
    if width * height > request["most"] and request["resize"] is None:
        return {"size": [width, height], "wrote": False}
    try:
        image.load()
        pixels = flattened(image)
        if request["resize"] is not None:
            pixels = pixels.resize(tuple(request["resize"]), Image.Resampling.BICUBIC)
    except BROKEN as problem:
        return {"refused": f"it is truncated or damaged: {problem}"}
    with open("rgb", "wb") as file:  # noqa: PTH123 - the guest imports as little as it can
        file.write(pixels.tobytes())
    return {"size": [width, height], "wrote": True}


def flattened(image: "Any") -> "Any":
    """The image as RGB, on white where it is transparent."""
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image.convert("RGB")


if __name__ == "__main__":
    try:
        reply = answer(json.loads(sys.stdin.read()))
    except MemoryError:
        reply = {"refused": "decoding it takes too much memory"}
    sys.stdout.write(json.dumps(reply) + "\n")

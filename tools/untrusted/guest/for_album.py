"""The numbered images of an episode, in the folder ``album``: new ones are made of those that are there."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrl.tools.untrusted.guest._picture import _apply, _check_size, _open, _save, _size_after
    from agentrl.tools.untrusted.guest._video import _video_kind, _video_picture

_FOLDER = "album"
_MOST_FRAMES = 4096


def answer(request: "dict[str, Any]") -> "dict[str, Any]":
    """Make a picture for each of ``views``; as they are to be shown, they are in ``shown-0.png`` and so on.

    With ``keep``, each also becomes an image of its own, with the next number.
    """
    os.makedirs(_FOLDER, exist_ok=True)
    views = [_view(view, index, request) for index, view in enumerate(request["views"])]
    return {"views": views}


def _view(view: "dict[str, Any]", index: int, request: "dict[str, Any]") -> "dict[str, Any]":
    most, most_bytes = request["most_pixels"], request["most_bytes"]
    there = _images()
    if request["keep"] and len(there) >= request["most_images"]:
        raise PermissionError(f"There are {len(there)} images already, and there may be no more.")
    path = view["file"] or _path(there, view["number"])
    image, frames = _picture(path, view["frame"] - 1, most, most_bytes)
    for step in view["steps"]:
        _check_size(*_size_after(step, *image.size), most)
        image = _apply(image, step)
    number = max(there, default=0) + 1 if request["keep"] else 0
    if number and view["file"]:
        os.replace(path, os.path.join(_FOLDER, f"{number}{os.path.splitext(path)[1]}"))
    elif number:
        _save(image, "PNG", os.path.join(_FOLDER, f"{number}.png"), most_bytes)
    shown = _fitting(image, request["shown_pixels"], request["enlarge"])
    _save(shown, "PNG", f"shown-{index}.png", most_bytes)
    told = {
        "number": number,
        "width": image.width,
        "height": image.height,
        "frames": frames if view["file"] else 1,
    }
    return {**told, "shown": list(shown.size), "color": _color(image) if view["color"] else None}


def _picture(path: str, frame: int, most: int, most_bytes: int) -> "tuple[Any, int]":
    """A frame of a file (from 0), in RGB, and how many frames it has."""
    if kind := _video_kind(path):
        image, frames = _video_picture(path, kind, frame, most, most_bytes, _MOST_FRAMES)
    else:
        image, _ = _open(path, most, most_bytes, frame)
        frames = min(getattr(image, "n_frames", 1), _MOST_FRAMES)
    return image.convert("RGB"), frames


def _images() -> "dict[int, str]":
    names = (os.path.splitext(name) for name in os.listdir(_FOLDER))
    return {int(stem): os.path.join(_FOLDER, stem + suffix) for stem, suffix in names if stem.isdecimal()}


def _path(there: "dict[int, str]", number: int) -> str:
    if number in there:
        return there[number]
    known = f"they go from 1 to {max(there)}" if there else "there is none yet"
    raise ValueError(f"There is no image {number}; {known}.")


def _fitting(image: Any, most_pixels: int, enlarge: int) -> Any:
    """The image, shrunk to ``most_pixels`` or enlarged until its longer side is ``enlarge``.

    Shrinking takes the mean of what a new pixel covers, so what is smaller than that leaves no trace.
    """
    from PIL import Image

    width, height = image.size
    scale = min((most_pixels / (width * height)) ** 0.5, max(1.0, enlarge / max(width, height)))
    size = max(1, int(width * scale + 1e-6)), max(1, int(height * scale + 1e-6))
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)


def _color(image: Any) -> "dict[str, Any]":
    """The mean of all pixels, and the colour of the most of them, to 16 levels of each channel."""
    from PIL import ImageStat

    mean = [round(value) for value in ImageStat.Stat(image).mean]
    small = image.resize((min(image.width, 256), min(image.height, 256)), 0)  # some of the pixels, unmixed
    coarse = small.point([level // 16 * 16 + 8 for level in range(256)] * 3)
    count, common = max(coarse.getcolors(maxcolors=256 * 256))
    return {"mean": mean, "common": list(common), "share": count / (small.width * small.height)}

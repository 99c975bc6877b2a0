"""An image file, changed step by step."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrl.tools.untrusted.guest._picture import _apply, _check_size, _open, _save, _size_after


def answer(request: "dict[str, Any]") -> "dict[str, Any]":
    """The size and format of ``path`` after the ``steps``; the result is in ``into``, if that is named."""
    most, most_bytes = request["most_pixels"], request["most_bytes"]
    image, found = _open(request["path"], most, most_bytes)
    for step in request["steps"]:
        _check_size(*_size_after(step, *image.size), most)
        image = _apply(image, step)
    kind = str(request["format"] or (found if found in ("PNG", "JPEG", "WEBP") else "PNG"))
    if request["into"]:
        _save(image, kind, request["into"], most_bytes)
    return {"width": image.width, "height": image.height, "format": kind if request["into"] else found}

"""The text in an image, as rapidocr reads it with the models of its own package."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrl.tools.untrusted.guest._picture import _open

_MOST_LINES = 500
_MOST_CHARACTERS = 400


def answer(request: "dict[str, Any]") -> "dict[str, Any]":
    """The lines that are found in ``path``, each with its text, corners and score."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import numpy
    from rapidocr import RapidOCR

    image, _ = _open(request["path"], request["most_pixels"], request["most_bytes"])
    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    reader = RapidOCR(params={"Global.log_level": "critical", **threads})
    pixels = numpy.asarray(image.convert("RGB"))[:, :, ::-1]  # rapidocr takes blue first
    found: Any = reader(numpy.ascontiguousarray(pixels))
    if found.txts is None:
        return {"lines": []}
    lines = [
        {"text": str(text)[:_MOST_CHARACTERS], "score": float(score), "box": _bounds(corners)}
        for text, score, corners in zip(found.txts, found.scores, found.boxes, strict=True)
    ]
    return {"lines": lines[:_MOST_LINES]}


def _bounds(corners: Any) -> "list[int]":
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return [int(left), int(top), int(right), int(bottom)]

"""What a tool answers: text, images, whether it is an error, and data for rewards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from agentrl.errors import DefinitionError


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded picture.

    Args:
        data: the file's bytes, as PNG, JPEG or WebP. They are not decoded here: what a tool
            returns may be hostile, and decoding belongs inside the sandbox.
        media_type: for example ``image/png``.
    """

    data: bytes = field(repr=False)
    media_type: str = "image/png"

    @classmethod
    def from_file(cls, path: str | Path) -> Image:
        """Read an image file; its suffix names the type."""
        path = Path(path)
        suffix = path.suffix.lower().lstrip(".")
        return cls(path.read_bytes(), f"image/{'jpeg' if suffix == 'jpg' else suffix}")


@dataclass(frozen=True)
class Picture:
    """An image as a model sees it: decoded in the sandbox, at its final size, and encoded anew.

    Args:
        png: the file's bytes, as we wrote them: RGB, 8 bits.
        width, height: in pixels.
    """

    png: bytes = field(repr=False)
    width: int
    height: int

    @cached_property
    def sha256(self) -> str:
        """Of the file: its name in messages and in the run folder."""
        return hashlib.sha256(self.png).hexdigest()


@dataclass(frozen=True, slots=True)
class Observation:
    """One tool call's answer, as the model will see it.

    Args:
        text: shown to the model; shortened in tokens to the rollout's limit.
        images: shown to a vision-language model; an error for a text-only one.
        error: whether the call failed. The model sees the text either way.
        done: ends the episode after this observation.
        metadata: for rewards and the record; the model never sees it.
    """

    text: str = ""
    images: tuple[Image, ...] = ()
    error: bool = False
    done: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: object) -> Observation:
        """Make an observation from whatever a tool returned.

        Strings stay as they are, images are shown, a sequence of both is joined, ``None`` is
        an empty answer, and anything else must be expressible as JSON.

        Raises:
            DefinitionError: the value is none of these.
        """
        if isinstance(value, Observation):
            return value
        if value is None:
            return cls()
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Image):
            return cls(images=(value,))
        if isinstance(value, Sequence) and any(isinstance(part, Image) for part in value):
            parts = [cls.of(part) for part in value]
            text = "\n".join(part.text for part in parts if part.text)
            return cls(text, tuple(image for part in parts for image in part.images))
        try:
            return cls(json.dumps(value, ensure_ascii=False))
        except (TypeError, ValueError) as problem:
            raise DefinitionError(
                f"A tool returned {type(value).__name__}, which cannot be shown to a model ({problem}). "
                "Return a string, an Image, an Observation, or data that JSON can hold."
            ) from problem

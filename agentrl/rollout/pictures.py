"""Images on their way to the model: decoded in the sandbox, shrunk to its limit, encoded anew.

What a tool or a data set hands over may be made to harm whoever decodes it. So it is decoded in an
empty sandbox session, of which only bare pixels come back; the file that goes on is one we wrote.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentrl.chat.vision import Vision, part_of
from agentrl.errors import DataError, DefinitionError, ModelUnsupported, SandboxUnavailable
from agentrl.observation import Image, Observation, Picture
from agentrl.trajectory import Message, words_of

if TYPE_CHECKING:
    from agentrl.chat import Chat
    from agentrl.env import Env
    from agentrl.sandbox import Result

MOST_BYTES = 16 << 20
"""Of an image file that is decoded."""

MOST_DECODED = 24_000_000
"""Pixels of an image that is decoded, before it is shrunk."""

KEPT_BYTES = 64 << 20
"""Of pictures that a runner remembers, so that those which come again are not decoded again."""

LIMITS: Mapping[str, Any] = {
    "wall_seconds": 120.0,
    "cpu_seconds": 20.0,
    "preload": tuple(f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Ppm", "WebP")),
}
"""Of decoding one image; Pillow would else load its formats for each anew. What the image costs is CPU time;
wall time passes on a busy machine too."""

Run = Callable[..., "Awaitable[Result]"]
Side = Annotated[int, Field(ge=1, le=MOST_DECODED)]


class Refused(Exception):
    """An image is not shown; why, in words for the model."""


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    refused: str | None = None
    size: tuple[Side, Side] | None = None
    wrote: bool = False


@dataclass(frozen=True)
class Taken:
    """A picture, and the width and height of the image that it was made of."""

    picture: Picture
    original: tuple[int, int]

    @property
    def note(self) -> str | None:
        """What the model is told of it, if anything."""
        now = (self.picture.width, self.picture.height)
        if now == self.original:
            return None
        return f"shrunk from {self.original[0]} x {self.original[1]} to {now[0]} x {now[1]} pixels"


class PictureStore:
    """Takes images in for all episodes of a runner, and remembers the last ones.

    Args:
        vision: the model's image rules.
        most_pixels: larger images are shrunk, by the processor's rule.
        kept_bytes: of pictures that are remembered.
    """

    def __init__(self, vision: Vision, most_pixels: int, kept_bytes: int = KEPT_BYTES) -> None:
        self._vision, self._most = vision, min(most_pixels, vision.most_pixels)
        self._kept_bytes, self._bytes = kept_bytes, 0
        self._kept: OrderedDict[str, Taken] = OrderedDict()

    async def take(self, image: Image, run: Run) -> Taken:
        """The image as the model is to see it.

        Args:
            run: runs a program in an empty session; see :meth:`agentrl.sandbox.Sandbox.run`.

        Raises:
            Refused: it is too large, not what it is said to be, truncated, damaged, or no image at all.
            SandboxUnavailable: there is no sandbox, or it cannot decode images.
            InfrastructureError: the sandbox failed.
        """
        key = f"{image.media_type} {hashlib.sha256(image.data).hexdigest()}"
        taken = self._kept.pop(key, None)
        if taken is None:
            taken = await self._decode(image, run)
            if key not in self._kept:  # another episode may have had it decoded meanwhile
                self._bytes += len(taken.picture.png)
        self._kept[key] = taken
        while self._bytes > self._kept_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.picture.png)
        return taken

    async def _decode(self, image: Image, run: Run) -> Taken:
        if len(image.data) > MOST_BYTES:
            raise Refused(f"its file has {len(image.data)} bytes; {MOST_BYTES} are taken at most")
        reply, rgb = await self._ask(image, run, None)
        assert reply.size is not None
        target = reply.size
        if not reply.wrote:
            try:
                target = self._vision.size(*reply.size, self._most)
            except ValueError as problem:
                raise Refused(str(problem)) from None
            again, rgb = await self._ask(image, run, target)
            if again.size != reply.size:
                raise Refused("decoding it twice gave two sizes")
        if rgb is None or len(rgb) != 3 * target[0] * target[1]:
            raise Refused("decoding it did not give its pixels")
        return Taken(await asyncio.to_thread(_encode, rgb, target), reply.size)

    async def _ask(
        self, image: Image, run: Run, resize: tuple[int, int] | None
    ) -> tuple[_Reply, bytes | None]:
        request = {
            "media_type": image.media_type, "most": self._most, "bomb": MOST_DECODED, "resize": resize,
        }  # fmt: skip
        result = await run(
            _program(), LIMITS, stdin=json.dumps(request).encode(), files={"image": image.data}, fetch=["rgb"]
        )
        return _read(result), result.files.get("rgb")


def _read(result: Result) -> _Reply:
    """What the program said, which is not believed unless it has the right form."""
    status = str(result.status)
    if status in ("timeout", "oom", "crashed", "session_lost", "output_limit"):
        raise Refused(f"decoding it was stopped ({status})")
    if status == "error" and "ModuleNotFoundError" in result.stderr:
        raise SandboxUnavailable(
            "The sandbox's Python has no Pillow, so no image can be decoded in it. Install agentrl[images]; "
            "for the Docker backend, use an image that has Pillow."
        )
    try:
        reply = _Reply.model_validate_json(result.stdout.strip().rpartition("\n")[2])
    except ValidationError:
        raise Refused("decoding it gave no answer that can be read") from None
    if reply.refused is not None:
        raise Refused(reply.refused[:300])
    if reply.size is None:
        raise Refused("decoding it gave no answer that can be read")
    return reply


def _encode(rgb: bytes, size: tuple[int, int]) -> Picture:
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.frombytes("RGB", size, rgb).save(file, "PNG", compress_level=1)
    return Picture(file.getvalue(), *size)


@functools.cache
def _program() -> str:
    return resources.files("agentrl.rollout.guest").joinpath("picture.py").read_text("utf-8")


class Gallery:
    """The pictures of one episode.

    Args:
        chat: of the model.
        store: takes images in; ``None`` where the model takes text only.
        run: as in :meth:`PictureStore.take`.
    """

    def __init__(self, chat: Chat, store: PictureStore | None, run: Run) -> None:
        self.pictures: dict[str, Picture] = {}
        self._chat, self._store, self._run = chat, store, run

    async def show(self, observation: Observation, source: str) -> tuple[str, list[dict[str, Any]]]:
        """An observation as the model sees it: its text, with what is to be said of its images, and their
        parts.

        Raises:
            ModelUnsupported: there are images, and the model takes text only.
        """
        parts, notes = [], []
        for number, image in enumerate(observation.images, 1):
            name = f"image {number}" if len(observation.images) > 1 else "image"
            try:
                taken = await self._taken(image, f"{source} returned an image")
            except Refused as problem:
                notes.append(f"[{name} not shown: {problem}]")
                continue
            parts.append(part_of(taken.picture))
            notes += [f"[{name} {taken.note}]"] if taken.note else []
        return "\n".join([*notes, *([observation.text] if observation.text else [])]), parts

    def is_text(self, messages: Sequence[Message]) -> bool:
        """Whether messages hold texts alone, so that :meth:`opening` would change nothing."""
        return not any(isinstance(message.get("content"), Image | list) for message in messages)

    async def opening(self, messages: Sequence[Message], env: str) -> list[Message]:
        """The messages that open an episode, with parts in the place of images.

        Raises:
            DataError: an image cannot be shown.
            DefinitionError: a message holds something other than texts and images.
            ModelUnsupported: as :meth:`show`.
        """
        return [await self._opened(message, env) for message in messages]

    def of(self, messages: Sequence[Message]) -> list[str]:
        """Names of the pictures in a conversation, in the order in which a prompt holds them."""
        return [str(part["sha256"]) for part in self._chat.images(messages)]

    def named(self, names: Sequence[str]) -> tuple[Picture, ...]:
        """The pictures of these names."""
        return tuple(self.pictures[name] for name in names)

    async def _opened(self, message: Message, env: str) -> Message:
        content = message.get("content")
        if isinstance(content, Image):
            content = [content]
        if not isinstance(content, list):
            return message
        parts: list[dict[str, Any]] = []
        for item in content:
            if not isinstance(item, Image):
                part = {"type": "text", "text": item} if isinstance(item, str) else item
                if not isinstance(part, Mapping) or part.get("type") != "text":
                    raise DefinitionError(
                        f"Environment {env} opens its dialogue with {item!r} in a message; give texts and "
                        "agentrl.Image."
                    )
                parts.append(dict(part))
                continue
            try:
                taken = await self._taken(item, f"Environment {env} opens its dialogue with an image")
            except Refused as problem:
                raise DataError(
                    f"Environment {env} opens its dialogue with an image that cannot be shown: {problem}."
                ) from problem
            parts.append(part_of(taken.picture))
            parts += [{"type": "text", "text": f"[image {taken.note}]\n"}] if taken.note else []
        return {**message, "content": parts}

    async def _taken(self, image: Image, what: str) -> Taken:
        if self._store is None:
            raise ModelUnsupported(
                f"{what}, and the model (chat format {self._chat.name!r}, {self._chat!r}) takes text only. "
                "Use a vision-language model, or leave out what returns images."
            )
        taken = await self._store.take(image, self._run)
        self.pictures[taken.picture.sha256] = taken.picture
        return taken


def check_sight(env: Env, chat: Chat) -> None:
    """See that a model can be shown what its environment shows.

    Raises:
        ModelUnsupported: the environment shows images, and the model takes text only.
    """
    if env.images and chat.vision is None:
        raise ModelUnsupported(
            f"Environment {env.name} shows images, and the model (chat format {chat.name!r}, {chat!r}) takes "
            "text only. Use a vision-language model of the Qwen-VL family, or model=embedded-vl."
        )


def content_of(text: str, parts: Sequence[Mapping[str, Any]]) -> str | list[Any]:
    """A message's content: the pictures, then the text."""
    return [*parts, {"type": "text", "text": text}] if parts else text


def described(message: Message) -> str:
    """A message's content for a person, with a line for each image."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    pictures = [part for part in content if part.get("type") == "image"]
    lines = [f"[image of {part['width']} x {part['height']} pixels]" for part in pictures]
    return "\n".join([*lines, words_of(message)])

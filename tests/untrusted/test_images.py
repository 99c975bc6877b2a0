"""Images are decoded and changed in a sandbox; what is too large or no image is refused with words."""

from __future__ import annotations

import io

import pytest
import samples
from PIL import Image

from agentrl.sandbox import Session
from agentrl.tools.untrusted import Invalid, Refused
from agentrl.tools.untrusted.images import MOST_BYTES, Convert, Crop, Resize, Rotate, Step, edit

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_steps_are_taken_in_order_and_written_down(session: Session):
    await session.put("in.png", samples.image("PNG", (40, 30)))
    steps: list[Step] = [
        Crop(left=0, top=0, right=20, bottom=10),
        Resize(width=200, height=100),
        Rotate(degrees=90),
        Convert(mode="L"),
    ]
    told = await edit(session, "in.png", steps, into="out.jpg", format="JPEG")
    made = Image.open(io.BytesIO(await session.get("out.jpg")))
    assert (made.width, made.height, made.format, made.mode) == (told.width, told.height, "JPEG", "L")
    assert (made.width, made.height) == (100, 200)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
async def test_formats_that_are_read(session: Session, kind: str):
    name = f"in.{kind.lower()}"
    await session.put(name, samples.image(kind))
    told = await edit(session, name)
    assert (told.width, told.height, told.format) == (40, 30, kind)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            [Crop(left=-(10**9), top=-(10**9), right=10**9, bottom=10**9)],
            "does not lie within the image of 40 x 30",
        ),
        ([Crop(left=0, top=0, right=41, bottom=30)], "does not lie within"),
        ([Crop(left=5, top=5, right=5, bottom=9)], "does not lie within"),
        ([Resize(width=60_000, height=60_000)], "60000 x 60000 pixels is too large"),
        ([Resize(width=0, height=5)], "nothing in it"),
        ([Resize(width=23_000_000, height=1)], "too large"),
        ([Resize(width=16_000, height=1_400), Rotate(degrees=45)], "too large"),
    ],
)
async def test_sizes_are_looked_at_before_memory_is_taken(session: Session, steps, words):
    await session.put("in.png", samples.image())
    with pytest.raises(Refused, match=words):
        await edit(session, "in.png", steps, into="out.png")
    assert "out.png" not in (await session.exec("ls")).stdout


@pytest.mark.parametrize(
    ("name", "data", "kind", "words"),
    [
        ("a.png", samples.png_that_claims(50_000, 50_000), Refused, "too large"),
        ("a.png", samples.png_that_claims(6_000, 6_000), Refused, "too large"),
        ("a.png", samples.image("PNG", (200, 200))[:-3000], Invalid, "truncated"),
        ("a.jpg", samples.image("JPEG", (200, 200))[:3000], Invalid, "truncated"),
        ("a.jpg", samples.image("PNG"), Invalid, "named as JPEG, but .* is PNG"),
        ("a.svg", b"<svg><!ENTITY x SYSTEM 'file:///etc/passwd'></svg>", Invalid, "no image of a supported"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Invalid, "no image of a supported"),
        ("a.png", b"", Invalid, "no image"),
        ("a.png", samples.image("PNG")[:20], Invalid, "cannot be read|no image"),
        ("a.png", bytes(MOST_BYTES + 1), Refused, "more than"),
    ],
)  # fmt: skip
async def test_what_is_no_good_image_is_refused_with_words(session: Session, name, data, kind, words):
    await session.put(name, data)
    with pytest.raises(kind, match=words):
        await edit(session, name)


async def test_an_image_has_to_be_there(session: Session):
    with pytest.raises(Invalid, match="no image file 'none.png'"):
        await edit(session, "none.png")
    await session.exec("mkfifo pipe.png")
    with pytest.raises(Invalid, match="no image file"):
        await edit(session, "pipe.png")

"""Tools on images in a real sandbox: what they make, and what they refuse."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import av
import pytest
import pytest_asyncio
import samples
from PIL import Image, ImageDraw, ImageFont

from agentrl import ConfigError, Observation, Tool, ToolContext, ToolError
from agentrl.errors import InvalidArguments
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.sandbox import NamespaceSandbox
from agentrl.tools.untrusted import Invalid, Refused
from agentrl.tools.untrusted.images import MOST_BYTES
from agentrl.tools.vision import (
    Album,
    Crop,
    DrawBox,
    MeasureColor,
    Ocr,
    Rotate,
    SelectFrames,
    VisionTool,
    Zoom,
)
from agentrl.tools.vision.album import MOST_IMAGES, SESSION, View
from agentrl.tools.vision.ocr import Line, in_rows

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHOWN = 10_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[NamespaceSandbox]:
    async with NamespaceSandbox() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def context(sandbox: NamespaceSandbox) -> AsyncIterator[ToolContext]:
    sessions = EpisodeSessions(sandbox)
    yield ToolContext(open_session=sessions.open, run_once=sessions.run)
    await sessions.close(10.0)


@pytest.fixture
def album(context: ToolContext) -> Album:
    return Album(context, SHOWN)


async def use(tool: Tool, context: ToolContext, **arguments: Any) -> Observation:
    """What a call gives."""
    return Observation.of(await tool.spawn(context).invoke(arguments))


def quarters() -> bytes:
    """200 x 100 pixels: red and green above, blue and white below."""
    image = Image.new("RGB", (200, 100), "white")
    draw = ImageDraw.Draw(image)
    for box, color in (((0, 0, 99, 49), "red"), ((100, 0, 199, 49), "lime"), ((0, 50, 99, 99), "blue")):
        draw.rectangle(box, fill=color)
    return encoded(image)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def decoded(observation: Observation) -> Image.Image:
    [image] = observation.images
    assert image.media_type == "image/png"
    return Image.open(io.BytesIO(image.data)).convert("RGB")


async def test_a_crop_becomes_the_next_image_and_can_be_cropped(album, context):
    first = await album.add(quarters())
    assert (first.number, first.text) == (1, "Image 1: 200 x 100, shown at 141 x 70")
    crop = await use(Crop(SHOWN), context, box=[90, 40, 150, 50])
    assert crop.text == "Image 2: 60 x 10"
    picture = decoded(crop)
    assert (picture.size, picture.getpixel((5, 5)), picture.getpixel((40, 5))) == (
        (60, 10),
        (255, 0, 0),
        (0, 255, 0),
    )
    again = await use(Crop(SHOWN), context, image=2, box=[20, 0, 30, 10])
    assert again.text == "Image 3: 10 x 10" and decoded(again).getpixel((0, 0)) == (0, 255, 0)


async def test_parts_are_counted_row_by_row(album, context):
    await album.add(quarters())
    seen = [decoded(await use(Zoom(2, SHOWN), context, part=part)).getpixel((9, 9)) for part in (1, 2, 3, 4)]
    assert seen == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    for part in (0, 5):
        with pytest.raises(Refused, match=f"no part {part}; they go from 1 to 4"):
            await use(Zoom(2), context, part=part)
    assert "2 x 2 parts" in Zoom(2).description


async def test_turned_marked_and_enlarged(album, context):
    await album.add(quarters())
    turned = await use(Rotate(), context, degrees=90)
    assert turned.text == "Image 2: 100 x 200" and decoded(turned).getpixel((10, 190)) == (255, 0, 0)
    marked = decoded(await use(DrawBox(), context, box=[120, 60, 180, 90]))
    assert marked.size == (200, 100) and marked.getpixel((120, 70)) == (255, 0, 0)
    assert marked.getpixel((150, 75)) == (255, 255, 255)
    enlarged = await use(Crop(SHOWN, enlarge=80), context, box=[0, 0, 20, 10])
    assert (enlarged.text, decoded(enlarged).size) == ("Image 4: 20 x 10", (80, 40))


async def test_colours_are_measured_as_they_are(album, context):
    await album.add(quarters())
    told = await use(MeasureColor(), context, box=[100, 0, 200, 100])
    assert told.images == () and told.metadata["mean"] == (128, 255, 128)
    even = await use(MeasureColor(), context, box=[0, 50, 40, 60])
    assert even.text == "mean #0000ff; 100% about #0808f8"
    assert (await album.look([View(1)]))[0].number == 2  # measuring made no image


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG"])
async def test_frames_of_a_video(album, context, kind):
    frames = [Image.new("RGB", (30, 20), (index * 40, 0, 0)) for index in range(6)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (await album.add(data, f".{kind.lower()}")).text == "Image 1: 30 x 20, 6 frames"
    shown = await use(SelectFrames(), context, frames=[6, 2])
    assert shown.text == "Image 2: 30 x 20\nImage 3: 30 x 20"
    reds = [Image.open(io.BytesIO(image.data)).convert("RGB").tobytes()[0] for image in shown.images]
    assert reds == pytest.approx([200, 40], abs=4)
    for frame in (0, -1, 7, 10**30):
        with pytest.raises(Invalid, match="no frame .*has 6"):
            await use(SelectFrames(), context, frames=[frame])
    for wrong in ([], list(range(1, 10))):
        with pytest.raises(ToolError, match="1 to 8 frames"):
            await use(SelectFrames(), context, frames=wrong)


def filmed(kind: str, codec: str, frames: int = 20, size: tuple[int, int] = (64, 48)) -> bytes:
    """A film whose picture n (from 0) has the red level 12n; with pictures that refer to later ones."""
    data = io.BytesIO()
    with av.open(data, "w", format=kind) as film:
        stream = film.add_stream(codec, rate=10, options={"g": "8"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(frames):
            picture = av.VideoFrame.from_image(Image.new("RGB", size, (index * 12, 0, 0)))
            film.mux(stream.encode(picture))
        film.mux(stream.encode(None))
    return data.getvalue()


@pytest.mark.parametrize(
    ("suffix", "kind", "codec"),
    [(".mp4", "mp4", "libx264"), (".mov", "mov", "libx264"), (".webm", "webm", "libvpx-vp9")],
)
async def test_frames_of_a_film(album, context, suffix, kind, codec):
    seen = await album.add(filmed(kind, codec), suffix)
    assert seen.text == "Image 1: 64 x 48, 20 frames"
    shown = await use(SelectFrames(), context, frames=[20, 1, 12, 9])
    reds = [Image.open(io.BytesIO(image.data)).convert("RGB").tobytes()[0] for image in shown.images]
    assert reds == pytest.approx([228, 0, 132, 96], abs=5)  # a neighbour's would be off by 12
    for frame in (0, 21, 10**30):
        with pytest.raises(Invalid, match="no frame .*has 20"):
            await use(SelectFrames(), context, frames=[frame])
    assert (await use(Crop(), context, box=[0, 0, 10, 10])).text.endswith("10 x 10")  # of the first


async def test_films_that_are_not_what_they_should_be(album):
    film = filmed("mp4", "libx264")
    for data, suffix, told in [
        (film, ".png", "content is MP4"),
        (film, ".webm", "content is MP4"),
        (samples.image(), ".mp4", "no such video"),
        (film[:300], ".mp4", "truncated or damaged"),
        (film[: len(film) // 2], ".mp4", "truncated or damaged"),
        (filmed("webm", "libvpx-vp9")[:200], ".webm", "truncated or damaged|There is no frame"),
    ]:
        with pytest.raises(Invalid, match=told):
            await album.add(data, suffix)
    with pytest.raises(Refused, match="too large"):
        await album.add(filmed("mp4", "mpeg4", frames=1, size=(8000, 4000)), ".mp4")


async def test_shrinking_takes_the_mean_of_what_a_pixel_covers(album):
    """So that what is finer than a pixel leaves no trace, whatever stands where."""
    checks = [Image.new("RGB", (400, 400)) for _ in range(2)]
    for phase, image in enumerate(checks):
        image.putdata(
            [(255, 255, 255) if (x + y + phase) % 2 else (0, 0, 0) for y in range(400) for x in range(400)]
        )
    shown = [(await album.add(encoded(image))).image.data for image in checks]
    assert shown[0] == shown[1]


# ---- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "data", "kind", "words"),
    [
        (".png", samples.png_that_claims(20_000, 10_000), Refused, "too large; it may have 24000000 pixels"),
        (".png", samples.png_that_claims(6_000, 5_000), Refused, "30000000|6000 x 5000 .* too large"),
        (".png", samples.image("PNG", (200, 200))[:-3000], Invalid, "truncated"),
        (".jpg", samples.image("JPEG", (200, 200))[:3000], Invalid, "truncated"),
        (".jpg", samples.image("PNG"), Invalid, "named as JPEG, but .* is PNG"),
        (".png", b"<svg><!ENTITY x SYSTEM 'file:///etc/passwd'></svg>", Invalid, "no image of a supported"),
        (".png", b"", Invalid, "no image of a supported"),
        (".png", bytes(MOST_BYTES + 1), Refused, "more than"),
    ],
)  # fmt: skip
async def test_hostile_and_broken_files_are_refused_with_words(album, context, suffix, data, kind, words):
    with pytest.raises(kind, match=words):
        await album.add(data, suffix)
    with pytest.raises(Invalid, match="no image 1; there is none yet"):
        await use(Crop(), context, box=[0, 0, 1, 1])
    assert (await album.add(quarters())).number == 1  # and the episode goes on


async def test_a_decompression_bomb_that_grows_by_a_tool(album, context):
    await album.add(encoded(Image.new("RGB", (9000, 600))))
    with pytest.raises(Refused, match="too large"):
        await use(Rotate(), context, degrees=45)


async def test_arguments_that_make_no_sense_are_told(album, context):
    await album.add(quarters())
    for box in ([0, 0, 201, 50], [50, 50, 50, 60], [-1, 0, 5, 5], [0, 0, 10**40, 5]):
        with pytest.raises(Refused, match="does not lie within the image of 200 x 100"):
            await use(Crop(), context, box=box)
    for number in (0, 2, 10**30):
        with pytest.raises(Invalid, match=f"no image {number}; they go from 1 to 1"):
            await use(Crop(), context, image=number, box=[0, 0, 5, 5])
    for arguments in ({"box": [1, 2, 3]}, {"box": "all"}, {}):
        with pytest.raises(InvalidArguments):
            await use(Crop(), context, **arguments)
    for degrees in (361, float("nan"), float("inf")):
        with pytest.raises(InvalidArguments):
            await use(Rotate(), context, degrees=degrees)


async def test_images_are_counted(album, context):
    await album.add(quarters())
    await album.look([View(1)] * (MOST_IMAGES - 1))
    with pytest.raises(Refused, match=f"{MOST_IMAGES} images already"):
        await use(Crop(), context, box=[0, 0, 5, 5])
    await use(MeasureColor(), context, box=[0, 0, 5, 5])  # makes none


async def test_an_album_is_copied_with_its_session(album, context):
    """What a snapshot of the environment takes: the copy and the original go apart."""
    await album.add(quarters())
    async with await (await context.sandbox(**SESSION)).fork() as fork:

        async def forked(_: object) -> Any:
            return fork

        other = Album(ToolContext(open_session=forked), SHOWN)
        await album.look([View(1)])
        assert (await other.look([View(1)]))[0].number == 2
        assert (await album.look([View(1)]))[0].number == 3


@pytest.mark.parametrize(
    "options", [{"shown_pixels": 0}, {"enlarge": -1}, {"shown_pixels": 100, "enlarge": 11}]
)
async def test_options_that_do_not_fit(options):
    with pytest.raises(ConfigError, match="shown_pixels="):
        VisionTool(**options)
    with pytest.raises(ConfigError, match="grid=0"):
        Zoom(0)


# ---- text -------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
async def test_text_is_read_in_the_sandbox(album, context):
    image = Image.new("RGB", (700, 400), "white")
    draw = ImageDraw.Draw(image)
    for x, y, text in (
        (40, 60, "Pears"),
        (300, 64, "173"),
        (40, 180, "Kiwis"),
        (300, 180, "4826"),
        (40, 330, "Figs"),
    ):
        draw.text((x, y), text, fill="black", font=ImageFont.load_default(32))
    await album.add(encoded(image))
    told = await use(Ocr(), context, box=[0, 0, 700, 280])
    assert told.text == "Pears  173\nKiwis  4826"
    assert {line["text"] for line in told.metadata["lines"]} == {"Pears", "173", "Kiwis", "4826"}


@pytest.mark.timeout(600)
async def test_without_text_there_is_none(album, context):
    await album.add(encoded(Image.new("RGB", (64, 64), "white")))
    assert (await use(Ocr(), context)).text == "No text was found."


async def test_rows_are_made_of_pieces_side_by_side():
    def line(text: str, left: int, top: int) -> Line:
        return Line(text=text, score=1.0, box=(left, top, left + 50, top + 20))

    assert (
        in_rows([line("d", 200, 103), line("a", 0, 8), line("c", 0, 100), line("b", 90, 0)]) == "a  b\nc  d"
    )
    assert in_rows([]) == ""

"""Images of tools and environments on their way to the model: decoded in the sandbox, or refused there."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from PIL import Image as Pillow
from rollout_support import TASK, Recorder, make_limits, write_call

from agentrl import Env, Image, Observation, Task, Tool
from agentrl.chat import Chat
from agentrl.chat.vision import Vision
from agentrl.errors import DataError, DefinitionError, EngineError, ModelUnsupported, SandboxUnavailable
from agentrl.observation import Picture
from agentrl.rollout import EpisodeRunner, Generation, Sampling
from agentrl.rollout.pictures import PictureStore, Refused
from agentrl.sandbox import Sandbox, open_sandbox
from agentrl.train import tiny, tiny_vision

TOKENIZER = tiny.make_tokenizer(special=[*tiny.SPECIAL_TOKENS, *tiny_vision.TOKENS])
VISION = Vision.of(TOKENIZER, tiny_vision.make_processor())
CHAT = tiny.chat(TOKENIZER, VISION)


def encoded(width: int, height: int, kind: str = "PNG", mode: str = "RGB", colour: Any = "red") -> bytes:
    file = io.BytesIO()
    Pillow.new(mode, (width, height), colour).save(file, kind)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it has ever so many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 22), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


PNG = encoded(50, 40)
REFUSED: dict[str, tuple[Image, str]] = {
    "a decompression bomb": (Image(bomb(20_000, 10_000)), "200000000|pixels"),
    "truncated": (Image(encoded(300, 300, "JPEG", colour="blue")[:-400], "image/jpeg"), "truncated|damaged"),
    "a truncated PNG": (Image(PNG[: len(PNG) // 2]), "truncated|damaged|read"),
    "mislabelled": (Image(PNG, "image/jpeg"), "said to be JPEG, but its content is PNG"),
    "of a type that is not taken": (Image(encoded(9, 9, "GIF"), "image/gif"), "no type of image"),
    "no image": (Image(b"%PDF-1.7 hello"), "no PNG, JPEG or WebP"),
    "empty": (Image(b""), "no PNG, JPEG or WebP"),
    "a thread": (Image(encoded(5000, 3)), "as long as wide"),
}


class Seeing:
    """Says its lines, and keeps what it was shown."""

    def __init__(self, *lines: str, chat: Chat = CHAT) -> None:
        self.prompts: list[list[int]] = []
        self.images: list[tuple[Picture, ...]] = []
        self.sampling: list[Sampling] = []
        self._lines, self._chat = list(lines), chat

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, episode: str, images: Sequence[Picture] = ()
    ) -> Generation:
        self.prompts.append(list(prompt_ids))
        self.images.append(tuple(images))
        self.sampling.append(sampling)
        line = self._lines[min(len(self.prompts), len(self._lines)) - 1]
        ids = self._chat.tokenizer.encode(line, add_special_tokens=False)
        ids.append(self._chat.stop_token_ids[0])
        return Generation(ids, [-1.0] * len(ids), [0] * len(ids))


class Camera(Tool):
    """Takes pictures."""

    shots: Sequence[Image] = ()

    async def call(self) -> Observation:
        """Take pictures."""
        return Observation("Click.", images=tuple(self.shots))


def camera(*shots: Image) -> type[Camera]:
    return type("Camera", (Camera,), {"shots": shots, "__doc__": Camera.__doc__})


class Opening(Env):
    """Opens with a picture."""

    images = True
    picture = Image(encoded(224, 224))

    def messages(self, task: Task) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [self.picture, "What is it?"]}]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox() as opened:
        yield opened


def runner(env: Env, policy: Any, sandbox: Sandbox | None, chat: Chat = CHAT, **limits: Any) -> EpisodeRunner:
    return EpisodeRunner(
        env,
        chat,
        policy,
        make_limits(**{"episode_seconds": 600.0, **limits}),
        sandbox=sandbox,
        events=Recorder(),
    )


CALL = write_call("camera")
pytestmark = pytest.mark.timeout(600)


async def test_a_tools_picture_reaches_the_policy_and_the_trajectory(sandbox: Sandbox) -> None:
    policy = Seeing(CALL, "red")
    tools = [camera(Image(encoded(56, 28)), Image(encoded(90, 90, "JPEG"), "image/jpeg"))]
    episode = await runner(Env(tools=tools), policy, sandbox).run(TASK, episode_id="a")
    assert (episode.status, episode.reason) == ("finished", "the model gave its answer")
    assert policy.images[0] == ()
    first, second = policy.images[1]
    assert (first.width, first.height, second.width, second.height) == (56, 28, 90, 90)
    with Pillow.open(io.BytesIO(first.png)) as seen:
        assert (seen.format, seen.getpixel((3, 3))) == ("PNG", (255, 0, 0))
    [sample] = episode.samples()
    assert sample.images == [first, second]
    ids = [*sample.prompt_ids, *sample.response_ids]
    assert ids.count(VISION.placeholder) == VISION.tokens(56, 28) + VISION.tokens(90, 90)
    sampled = [token for token, drawn in zip(sample.response_ids, sample.mask, strict=True) if drawn]
    assert VISION.placeholder not in sampled
    assert policy.sampling[0].banned_token_ids == CHAT.banned_token_ids != ()
    parts = episode.messages[-2]["content"]
    assert [part["type"] for part in parts] == ["image", "image", "text"]
    assert parts[0]["sha256"] in episode.pictures
    assert episode.to_dict()["segments"][0]["images"] == [first.sha256, second.sha256]


async def test_an_opening_picture_that_is_too_large_is_shrunk_and_the_model_is_told(sandbox: Sandbox) -> None:
    policy = Seeing("red")
    episode = await runner(Opening(), policy, sandbox).run(TASK, episode_id="a")
    [[seen]] = policy.images
    assert (seen.width, seen.height) == (112, 112)
    assert "[image shrunk from 224 x 224 to 112 x 112 pixels]" in CHAT.decode(policy.prompts[0])
    assert policy.prompts[0].count(VISION.placeholder) == 16
    assert episode.segments[0].images == [seen.sha256]
    policy = Seeing("red")
    await runner(Opening(), policy, sandbox, max_image_pixels=56 * 56).run(TASK, episode_id="b")
    assert policy.prompts[0].count(VISION.placeholder) == 4


async def test_images_that_may_do_harm_are_refused_and_the_model_told(sandbox: Sandbox) -> None:
    policy = Seeing(CALL, "none")
    env = Env(tools=[camera(*(image for image, _ in REFUSED.values()), Image(PNG))])
    wide: dict[str, Any] = {"max_observation_tokens": 3000, "max_trajectory_tokens": 6000}
    episode = await runner(env, policy, sandbox, **wide).run(TASK, episode_id="a")
    assert episode.status == "finished"
    assert len(policy.images[1]) == 1, "the sound one beside them is shown"
    notes = episode.messages[-2]["content"][-1]["text"].splitlines()
    assert notes[-1] == "Click."
    for number, ((name, (_, why)), note) in enumerate(zip(REFUSED.items(), notes, strict=False), 1):
        assert note.startswith(f"[image {number} not shown: "), name
        assert any(each in note for each in why.split("|")), f"{name}: {note}"


async def test_an_opening_that_cannot_be_shown_stops_the_run(sandbox: Sandbox) -> None:
    env = Opening()
    env.picture = Image(b"nothing")
    with pytest.raises(DataError, match="opens its dialogue with an image that cannot be shown"):
        await runner(env, Seeing("x"), sandbox).run(TASK, episode_id="a")
    env.picture = {"type": "image", "sha256": "0" * 64, "width": 9, "height": 9}  # type: ignore[assignment]
    with pytest.raises(DefinitionError, match="give texts and agentrl.Image"):
        await runner(env, Seeing("x"), sandbox).run(TASK, episode_id="a")


async def test_transparency_is_laid_on_white(sandbox: Sandbox) -> None:
    store = PictureStore(VISION, 10**6)
    for mode, colour in (("RGBA", (0, 0, 0, 0)), ("LA", (0, 0))):
        taken = await store.take(Image(encoded(30, 30, mode=mode, colour=colour)), run_in(sandbox))
        with Pillow.open(io.BytesIO(taken.picture.png)) as seen:
            assert (seen.mode, seen.getpixel((0, 0))) == ("RGB", (255, 255, 255))


async def test_what_was_decoded_is_remembered_within_bounds(sandbox: Sandbox) -> None:
    calls = []

    async def run(code: str, options: Any, **how: Any) -> Any:
        calls.append(code)
        return await run_in(sandbox)(code, options, **how)

    store = PictureStore(VISION, 10**6, kept_bytes=1)
    await store.take(Image(PNG), run)
    await store.take(Image(PNG), run)
    assert len(calls) == 2, "there is no room to remember it"
    store = PictureStore(VISION, 10**6)
    await asyncio.gather(*(store.take(Image(encoded(8, 8)), run) for _ in range(2)))
    before = len(calls)
    await store.take(Image(encoded(8, 8)), run)
    assert len(calls) == before


SAID = ("", "{}", '{"size": [2, 2], "wrote": true}', '{"size": [0, 9], "wrote": true}', '{"size": "x"}')


async def test_what_comes_back_is_not_believed(sandbox: Sandbox) -> None:
    """A decoder that was taken over can say anything."""
    for said in SAID:

        async def run(code: str, options: Any, said: str = said, **how: Any) -> Any:
            return await run_in(sandbox)(f"print({said!r}); open('rgb', 'wb').write(b'abc')", options, **how)

        with pytest.raises(Refused):
            await PictureStore(VISION, 10**6).take(Image(PNG), run)


async def test_a_text_model_is_refused_before_anything_starts() -> None:
    chat = tiny.chat(tiny.make_tokenizer())
    with pytest.raises(ModelUnsupported, match="opening shows images, and the model"):
        runner(Opening(), Seeing("x"), None, chat=chat)
    env = Env(tools=[camera(Image(PNG))])  # which does not declare it
    with pytest.raises(ModelUnsupported, match="Tool camera returned an image"):
        await runner(env, Seeing(CALL, chat=chat), None, chat=chat).run(TASK, episode_id="a")


async def test_no_sandbox_no_images() -> None:
    with pytest.raises(SandboxUnavailable):
        await runner(Opening(), Seeing("x"), None).run(TASK, episode_id="a")


async def test_a_policy_that_draws_a_banned_token_is_a_broken_engine() -> None:
    sampling = Sampling(banned_token_ids=(7,))
    assert Generation([1, 2], [0.0, 0.0], [0, 0]).checked(sampling).token_ids == [1, 2]
    with pytest.raises(EngineError, match="banned"):
        Generation([1, 7], [0.0, 0.0], [0, 0]).checked(sampling)


def run_in(sandbox: Sandbox) -> Any:
    """What an episode's sessions offer for stateless calls."""
    from agentrl.rollout.sessions import EpisodeSessions

    return EpisodeSessions(sandbox).run

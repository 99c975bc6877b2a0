"""Questions about images whose answer is too small to be seen in the whole: one has to look closer.

The model is paid for the right answer between ``<answer>`` and ``</answer>``, however it came by it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agentrl import (
    ConfigError,
    DataError,
    Env,
    Expert,
    InfrastructureError,
    Message,
    Splits,
    Task,
    Tool,
    ToolError,
    call,
    say,
    split_size,
)
from agentrl.envs.vision import photos
from agentrl.envs.vision.photos import OnBadRow
from agentrl.envs.vision.puzzles import KINDS, USUAL, Box, Puzzle, Showing
from agentrl.rewards.vision import correct, pixel_reasoner
from agentrl.tools.untrusted import Invalid, Refused
from agentrl.tools.untrusted.images import MOST_BYTES
from agentrl.tools.vision import Album, Crop, DrawBox, MeasureColor, Ocr, Rotate, SelectFrames, Zoom
from agentrl.tools.vision.album import Seen

TEST_SIZE = 256
TRIES = 100
"""Pictures drawn by lot for one that is not there yet."""

TOOLS: Mapping[str, Callable[[Showing], Tool]] = MappingProxyType(
    {
        "crop": lambda showing: Crop(showing.shown_pixels),
        "zoom": lambda showing: Zoom(showing.grid, showing.shown_pixels),
        "rotate": lambda showing: Rotate(showing.shown_pixels),
        "draw_box": lambda showing: DrawBox(showing.shown_pixels),
        "measure_color": lambda showing: MeasureColor(),
        "select_frames": lambda showing: SelectFrames(shown_pixels=showing.shown_pixels),
        "ocr": lambda showing: Ocr(),
    }
)
USUAL_TOOLS = ("crop", "rotate", "draw_box", "measure_color", "select_frames")


class Vision(Env):
    """Questions about pictures, answered by looking closer with tools.

    Args:
        kinds: of built-in pictures, of :data:`agentrl.envs.vision.puzzles.KINDS`; by default all but
            ``weave`` and ``mosaic``.
        size: built-in tasks in ``train``; ``test`` has a quarter of it, at most 256.
        seed: of the built-in pictures.
        data: instead of them ``easy-vqa``, or rows of ``image``, ``question`` and ``answer``; see
            :func:`agentrl.envs.vision.photos.load`.
        on_bad_row: what to do about a malformed row of ``data``: ``stop`` or ``skip``. With ``skip``, an
            episode whose image cannot be decoded is void; otherwise it stops the run.
        tools: names of :data:`TOOLS`; none to see what can be done without.
        grid: parts on a side, for ``zoom``.
        shown_pixels: to which every image is shrunk before it is shown.
        curiosity: the weight of Pixel-Reasoner's term; 0 leaves it out.
        expert_rate: how many of the expert's episodes look closer; in the others it guesses.

    Raises:
        ConfigError: an option does not fit.
    """

    prompt = "Look closer with the tools. Answer in <answer></answer>."
    success = "correct"
    images = True

    def __init__(
        self,
        kinds: Sequence[str] | None = None,
        size: int = 2000,
        seed: int = 0,
        data: str | None = None,
        on_bad_row: OnBadRow = "stop",
        tools: Sequence[str] = USUAL_TOOLS,
        grid: int = 4,
        shown_pixels: int = 200_704,
        curiosity: float = 0.0,
        expert_rate: float = 1.0,
    ) -> None:
        super().__init__()
        if data and kinds is not None:
            raise ConfigError(f"data={data} and kinds= exclude each other; give one of them.")
        if on_bad_row not in ("stop", "skip"):
            raise ConfigError(f"on_bad_row={on_bad_row!r} must be 'stop' or 'skip'.")
        if size < 4 or curiosity < 0 or not 0 <= expert_rate <= 1:
            raise ConfigError(
                f"size={size} must be at least 4, curiosity={curiosity} at least 0, and "
                f"expert_rate={expert_rate} from 0 to 1."
            )
        if shown_pixels < 56 * 56 or not 2 <= grid <= 16 or grid % 2:
            raise ConfigError(
                f"shown_pixels={shown_pixels} must be at least {56 * 56}, and grid={grid} even, from 2 to 16."
            )
        self.kinds = _chosen(USUAL if kinds is None else kinds, KINDS, "kind")
        self.size, self.seed, self.data, self.on_bad_row = size, seed, data, on_bad_row
        self.expert_rate, self.showing = expert_rate, Showing(shown_pixels, grid)
        self.tool_names = _chosen(tools, TOOLS, "tool", none=True)
        self.tools = [TOOLS[name](self.showing) for name in self.tool_names]
        self.rewards = [correct, *([curiosity * pixel_reasoner()] if curiosity else [])]
        self._splits = Splits(self._photos, key=_file) if data else Splits(self._make, key=self._picture)

    def tasks(self, split: str) -> list[Task]:
        """The tasks of ``train`` or ``test``, made or read once; no picture stands in both.

        Raises:
            ConfigError: the split is unknown, or there are not so many different pictures.
            DataError: ``data`` cannot be read.
        """
        return self._splits(split)

    def puzzle(self, task: Task) -> Puzzle:
        """The built-in picture of a task, with its question."""
        return KINDS[task.metadata["kind"]](random.Random(task.metadata["seed"]), self.showing)

    def _picture(self, task: Task) -> str:
        return _drawn(self.puzzle(task))

    def _photos(self, split: str, _: set[Hashable]) -> Iterator[Task]:
        return photos.load(str(self.data), split, self.on_bad_row)

    def _make(self, split: str, there: set[Hashable]) -> list[Task]:
        size = split_size(split, self.size, TEST_SIZE)
        return [self._new(split, index, there) for index in range(size)]

    def _new(self, split: str, index: int, there: set[Hashable]) -> Task:
        """A task whose picture is not ``there``; the kinds take turns."""
        kind = self.kinds[index % len(self.kinds)]
        for attempt in range(TRIES):
            seed = f"{self.seed} {split} {index} {attempt}"
            puzzle = KINDS[kind](random.Random(seed), self.showing)
            if (drawn := _drawn(puzzle)) not in there:
                there.add(drawn)
                return Task(puzzle.question, answer=puzzle.answer, metadata={"kind": kind, "seed": seed})
        raise ConfigError(
            f"There are not so many different pictures of kind {kind!r}: lower size={self.size}."
        )

    async def reset(self, task: Task) -> None:
        """Draw or read the task's image, and take it into the episode's album.

        Raises:
            DataError: its file is not there, or no image that can be used.
            InfrastructureError: likewise, with ``on_bad_row=skip``; or the sandbox failed, or took too long.
        """
        album = Album(self.context, self.showing.shown_pixels)
        if self.data:
            self.seen = await self._read(album, Path(task.metadata["file"]))
        else:
            self.seen = await self._draw(album, self.puzzle(task).picture)

    async def _draw(self, album: Album, description: dict[str, Any]) -> Seen:
        file = "drawn.webp" if "frames" in description else "drawn.png"
        try:
            return await album.adopt(file, _program(description))
        except ToolError as problem:
            raise InfrastructureError(
                f"The picture could not be drawn in the sandbox: {problem}"
            ) from problem

    async def _read(self, album: Album, file: Path) -> Seen:
        try:
            if file.stat().st_size > MOST_BYTES:
                raise Refused(f"It has more than {MOST_BYTES} bytes.")
            return await album.add(file.read_bytes(), file.suffix.lower())
        except (OSError, ToolError) as problem:
            told = f"The image {str(file)!r} cannot be used: {problem}"
            if self.on_bad_row == "skip" or not isinstance(problem, OSError | Refused | Invalid):
                raise InfrastructureError(told) from problem
            raise DataError(
                f"{told} Mend it, or pass on_bad_row=skip to make such episodes void."
            ) from problem

    def messages(self, task: Task) -> list[Message]:
        """The prompt, and the question below the image."""
        opening = super().messages(task)
        opening[-1]["content"] = [self.seen.image, f"{self.seen.text}\n{task.prompt}"]
        return opening

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Looks where the answer is, and gives it; or guesses what was the answer to another task."""
        answer, looks = task.answer, self._looks(task)
        if looks and rng.random() < self.expert_rate:
            for look in looks:  # noqa: UP028 - a list is sent no answers
                yield look
        else:
            kind = task.metadata.get("kind")
            others = [other for other in self.tasks("train") if other.metadata.get("kind") == kind]
            answer = rng.choice(others).answer
        yield say(f"<answer>{answer}</answer>")

    def _looks(self, task: Task) -> list[Message]:
        """The calls that show what the question is about, as far as there are tools for them."""
        if self.data:
            whole = [0, 0, self.seen.width, self.seen.height]
            return [call("crop", box=whole)] if "crop" in self.tool_names else []
        puzzle = self.puzzle(task)
        if puzzle.frames:
            frames = call("select_frames", frames=list(puzzle.frames))
            return [frames] if "select_frames" in self.tool_names else []
        if "zoom" in self.tool_names:
            return [call("zoom", part=self._part(puzzle.picture["size"], box)) for box in puzzle.where]
        return [call("crop", box=list(box)) for box in puzzle.where if "crop" in self.tool_names]

    def _part(self, size: Sequence[int], box: Box) -> int:
        """The part of a picture in which the middle of a box lies."""
        column, row = ((box[side] + box[side + 2]) * self.showing.grid // (2 * size[side]) for side in (0, 1))
        return row * self.showing.grid + column + 1


def _program(description: dict[str, Any]) -> str:
    """What draws a picture in the sandbox, into ``drawn.png`` or ``drawn.webp``."""
    drawing = resources.files("agentrl.envs.vision").joinpath("drawing.py").read_text("utf-8")
    return f"{drawing}\nsave({description!r}, 'drawn')"


def _file(task: Task) -> str:
    return str(task.metadata["file"])


def _drawn(puzzle: Puzzle) -> str:
    return json.dumps(puzzle.picture)


def _chosen(
    names: Sequence[str], known: Mapping[str, Any], what: str, *, none: bool = False
) -> tuple[str, ...]:
    chosen = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in chosen if name not in known]
    if unknown or not (chosen or none):
        wrong = f"There is no {what} {unknown[0]!r}" if unknown else f"{what}s= is empty"
        raise ConfigError(f"{wrong}; known: {', '.join(sorted(known))}.")
    return tuple(dict.fromkeys(chosen))

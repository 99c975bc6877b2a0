"""Pictures made from seeds, with a question about what is too small to be seen in them as a whole.

A picture is a description that :mod:`agentrl.envs.vision.drawing` draws. What a question is about is so small
that shrinking the picture to ``shown_pixels`` makes it unreadable, or takes every trace of it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Box = tuple[int, int, int, int]

COLORS: Mapping[str, str] = MappingProxyType(
    {"red": "#d22828", "green": "#28a03c", "blue": "#2846dc", "yellow": "#e6d228"}
)
CARDS: Mapping[str, str] = MappingProxyType(
    {"red": "#c62828", "green": "#2e7d32", "blue": "#1565c0", "purple": "#6a1b9a", "brown": "#5d4037",
     "black": "#212121"}
)  # fmt: skip
CLUTTER = ("#d7ccc8", "#cfd8dc", "#c8e6c9", "#fff9c4", "#ffe0b2", "#d1c4e9", "#b3e5fc", "#f8bbd0")
NAMES = (
    "Apples", "Beans", "Carrots", "Dates", "Endives", "Figs", "Grapes", "Kiwis", "Lemons", "Melons", "Nuts",
    "Olives", "Pears", "Plums", "Radishes", "Turnips",
)  # fmt: skip
COLUMNS = ("Stock", "Price", "Sold", "Boxes", "Weight", "Orders")

READABLE = 3.2
"""Height in pixels of letters that nobody can read: that of text in a picture shown as a whole."""
PATCHES = 4
"""Of a mosaic; the smallest one has as many parts."""
SIDES = (2048, 4096)
"""Of canvases."""
SHEET = (2400, 1800)
"""Width and height of charts and tables."""


@dataclass(frozen=True)
class Showing:
    """How a model is shown pictures: in how many pixels, and into how many parts a side is divided."""

    shown_pixels: int
    grid: int

    def small(self, width: int, height: int) -> int:
        """The size of text that cannot be read in a picture of this size shown as a whole."""
        return max(14, round(READABLE * math.sqrt(width * height / self.shown_pixels)))


@dataclass(frozen=True)
class Puzzle:
    """A question on a picture.

    Args:
        question, answer: in words.
        picture: its description.
        where: the boxes that one has to look into.
        frames: those that one has to look at, if it is a video.
    """

    question: str
    answer: str
    picture: dict[str, Any]
    where: tuple[Box, ...] = ()
    frames: tuple[int, ...] = ()


def weave(rng: random.Random, showing: Showing) -> Puzzle:
    """A patch of four colours that alternate so finely that the whole picture shows their mean alone.

    The picture has ``grid`` times as many pixels on a side as can be shown, and the patch lies on the blocks
    of which each becomes one shown pixel. A block holds as much of each colour, however they are ordered.
    """
    side, block = math.isqrt(showing.shown_pixels), showing.grid
    part = side // showing.grid  # in blocks, as all that follows
    width, height = (rng.randint(part // 2, part * 3 // 4) for _ in range(2))
    row, column = (rng.randrange(showing.grid) for _ in range(2))
    left = column * part + rng.randint(0, part - width)
    top = row * part + rng.randint(0, part - height)
    where = (left * block, top * block, (left + width) * block, (top + height) * block)
    names = rng.sample(list(COLORS), len(COLORS))
    shade = rng.randint(236, 255)
    picture = {
        "size": [side * block, side * block],
        "ground": "#" + f"{shade:02x}" * 3,
        "marks": [["weave", list(where), block // 2, [COLORS[name] for name in names]]],
    }
    return Puzzle("Name the patch's four colours row by row.", " ".join(names), picture, (where,))


def mosaic(rng: random.Random, showing: Showing) -> Puzzle:
    """Some of the parts of a picture are such patches, each with its colours in an order of its own.

    The question names one by its number: where to look is said, what is there is not.
    """
    side, block = math.isqrt(showing.shown_pixels), showing.grid
    part = side // showing.grid * block
    numbers = rng.sample(range(showing.grid**2), PATCHES)
    marks: list[Any] = []
    for number in numbers:
        row, column = divmod(number, showing.grid)
        names = rng.sample(list(COLORS), len(COLORS))
        where = (column * part, row * part, (column + 1) * part, (row + 1) * part)
        marks.append(["weave", list(where), block // 2, [COLORS[name] for name in names]])
    picture = {"size": [side * block, side * block], "ground": "#f0f0f0", "marks": marks}
    return Puzzle(
        f"Name the four colours of part {numbers[-1] + 1} row by row.", " ".join(names), picture, (where,)
    )


def target(rng: random.Random, showing: Showing) -> Puzzle:
    """Small coloured cards with numbers on a large canvas full of other things."""
    width, height = rng.randint(*SIDES), rng.randint(*SIDES)
    marks: list[Any] = []
    for _ in range(rng.randint(10, 30)):
        x, y, size = rng.randrange(width), rng.randrange(height), rng.randint(width // 40, width // 6)
        kind = rng.choice(("box", "disc"))
        marks.append([kind, [x, y, x + size, y + rng.randint(size // 2, size)], rng.choice(CLUTTER)])
    size = showing.small(width, height)
    card_width, card_height = size * 3, size * 2
    rows = rng.sample(range(4), 3)  # each card in a quarter of its own, so that none covers another
    chosen = rng.sample(list(CARDS), 3)
    for row, name in zip(rows, chosen, strict=True):
        x = rng.randint(0, width - card_width)
        y = height * row // 4 + rng.randint(0, height // 4 - card_height - 1)
        number, where = rng.randint(100, 999), (x, y, x + card_width, y + card_height)
        marks.append(["box", list(where), CARDS[name]])
        marks.append(["words", [x + card_width // 2, y + card_height // 2], str(number), size, "#ffffff"])
    picture = {"size": [width, height], "ground": "#eceff1", "marks": marks}
    return Puzzle(f"What number is on the {name} card?", str(number), picture, (where,))


def chart(rng: random.Random, showing: Showing) -> Puzzle:
    """Bars with their names and values in small letters."""
    names = rng.sample(NAMES, rng.randint(6, 9))
    values = dict(zip(names, rng.sample(range(10, 100), len(names)), strict=True))
    width, height = SHEET
    size, base, step = showing.small(width, height), height - 200, (width - 200) // len(names)
    marks: list[Any] = [["box", [100, base, width - 100, base + 4], "#424242"]]
    bars: dict[str, Box] = {}
    color = rng.choice(list(CARDS.values()))
    for index, (name, value) in enumerate(values.items()):
        left, top = 100 + index * step + step // 5, base - value * (base - 200) // 100
        right = left + step * 3 // 5
        middle = (left + right) // 2
        marks.append(["box", [left, top, right, base], color])
        marks.append(["words", [middle, top - size], str(value), size, "#000000"])
        marks.append(["words", [middle, base + size], name, size, "#000000"])
        bars[name] = (left - step // 6, top - 2 * size, right + step // 6, base + 2 * size)
    picture = {"size": [width, height], "ground": "#ffffff", "marks": marks}
    one, other = rng.sample(names, 2)
    most, least = max(names, key=values.__getitem__), min(names, key=values.__getitem__)
    question, answer, about = rng.choice([
        (f"What is the value of {one}?", str(values[one]), [one]),
        (f"By how much do {one} and {other} differ?", str(abs(values[one] - values[other])), [one, other]),
        ("Which has the largest value?", most, [most]),
        ("Which has the smallest value?", least, [least]),
    ])  # fmt: skip
    return Puzzle(question, answer, picture, tuple(bars[name] for name in about))


def table(rng: random.Random, showing: Showing) -> Puzzle:
    """Rows and columns of numbers in small letters."""
    names, columns = rng.sample(NAMES, rng.randint(6, 12)), rng.sample(COLUMNS, 3)
    width, height = SHEET
    size, step, across = showing.small(width, height), height // (len(names) + 2), width // (len(columns) + 2)
    marks: list[Any] = []
    numbers = {column: rng.sample(range(10, 1000), len(names)) for column in columns}
    for index, column in enumerate(columns, start=2):
        marks.append(["words", [index * across, step], column, size, "#000000"])
    rows: dict[str, Box] = {}
    for index, name in enumerate(names):
        y = (index + 2) * step
        marks.append(["box", [across // 2, y - step // 2, width - across // 2, y - step // 2 + 2], "#bdbdbd"])
        marks.append(["words", [across, y], name, size, "#000000"])
        for place, column in enumerate(columns, start=2):
            marks.append(["words", [place * across, y], str(numbers[column][index]), size, "#000000"])
        rows[name] = (0, max(0, y - step // 2), width, min(height, y + step // 2))
    picture = {"size": [width, height], "ground": "#ffffff", "marks": marks}
    column, row = rng.choice(columns), rng.randrange(len(names))
    if rng.random() < 0.5:
        question, answer = f"What is {column} of {names[row]}?", str(numbers[column][row])
        return Puzzle(question, answer, picture, (rows[names[row]],))
    best = names[numbers[column].index(max(numbers[column]))]
    return Puzzle(f"Which row has the largest number in {column}?", best, picture, (rows[best],))


def video(rng: random.Random, showing: Showing) -> Puzzle:
    """A lamp that turns green, or numbers that change, in a video of which the first frame is shown."""
    count = rng.randint(12, 32)
    change = rng.randint(2, count)
    numbers = rng.sample(range(10, 100), count)
    side = max(56, min(320, math.isqrt(showing.shown_pixels)))
    frames = []
    for number in range(1, count + 1):
        lamp = COLORS["green" if number >= change else "red"]
        x = number * (side * 3 // 4) // count
        frames.append({
            "size": [side, side], "ground": "#f5f5f5",
            "marks": [
                ["disc", [side // 8, side // 8, side * 3 // 8, side * 3 // 8], lamp],
                ["words", [side * 2 // 3, side // 4], str(numbers[number - 1]), side // 4, "#000000"],
                ["disc", [x, side * 5 // 8, x + side // 5, side * 5 // 8 + side // 5], "#90a4ae"],
            ],
        })  # fmt: skip
    picture = {"frames": frames}
    if rng.random() < 0.5:
        question = "At which frame does the lamp turn green?"
        return Puzzle(question, str(change), picture, frames=(change - 1, change))
    asked = rng.randint(2, count)
    question = f"What number is shown in frame {asked}?"
    return Puzzle(question, str(numbers[asked - 1]), picture, frames=(asked,))


Make = Callable[[random.Random, Showing], Puzzle]
KINDS: Mapping[str, Make] = MappingProxyType(
    {"weave": weave, "mosaic": mosaic, "target": target, "chart": chart, "table": table, "video": video}
)
USUAL = ("target", "chart", "table", "video")

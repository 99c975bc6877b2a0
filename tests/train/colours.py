"""An environment for tests: what a colour is can only be seen, in a picture that a tool returns."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from typing import Any

from agentrl import Env, Image, Task, Trajectory, call, reward, say, tool
from agentrl.chat.vision import Vision, positions
from agentrl.observation import Picture

COLOURS = {"red": (230, 20, 20), "blue": (20, 20, 230)}


def picture(width: int, height: int, colour: tuple[int, int, int] = (200, 30, 90)) -> Picture:
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.new("RGB", (width, height), colour).save(file, "PNG")
    return Picture(file.getvalue(), width, height)


def painted(colour: tuple[int, int, int], side: int = 56) -> Image:
    return Image(picture(side, side, colour).png)


class Colours(Env):
    """The opening shows a grey square, and the tool what is behind it."""

    images = True
    success = "right"

    def tasks(self, split: str) -> Iterator[Task]:
        for number in range(16):
            yield Task("Look.", answer=list(COLOURS)[number % 2], id=f"{split}-{number}")

    async def reset(self, task: Task) -> None:
        self.colour = COLOURS[task.answer]

    def messages(self, task: Task) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [painted((128, 128, 128), 28), task.prompt]}]

    @tool
    def look(self) -> Image:
        """Look behind it."""
        return painted(self.colour)

    @reward
    def right(self, episode: Trajectory) -> float:
        return float(episode.final_text.strip() == episode.task.answer)

    def expert(self, task: Task, rng: random.Random) -> Any:
        yield call("look")
        yield say(task.answer if rng.random() < 0.8 else rng.choice(list(COLOURS)))


def logprobs_of(
    net: Any,
    ids: list[int],
    pictures: list[Picture],
    vision: Vision,
    *,
    temperature: float = 1.0,
    banned: bool = True,
) -> list[float]:
    """Of every token but the first, by a forward pass of transformers' own."""
    import torch

    given = vision.pixels(pictures) if pictures else {}
    grids = given["image_grid_thw"].tolist() if pictures else []
    places = torch.from_numpy(positions(ids, grids, vision))[:, None]
    with torch.no_grad():
        logits = net(input_ids=torch.tensor([ids]), position_ids=places, **given).logits[0] / temperature
    if banned:
        logits[:, list(vision.banned)] -= 100
    found = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids)[1:, None])
    return [float(value) for value in found[:, 0]]

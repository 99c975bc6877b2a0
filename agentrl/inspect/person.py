"""A person in the model's place: sees what it would see, and writes what it would sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from agentrl.errors import DataError
from agentrl.inspect.written import Unclear, read_turn
from agentrl.observation import Picture
from agentrl.rollout import Generation, Sampling, Scene, written
from agentrl.rollout.policy import as_generated
from agentrl.trajectory import Message

if TYPE_CHECKING:
    from agentrl.chat import Chat

UNHURRIED_SECONDS = 86_400.0
"""A person's time for an episode. Tool calls keep their own limit."""


class Desk(Protocol):
    """Where a person sits."""

    def open(self, scene: Scene) -> None:
        """Show the opening dialogue and the tools."""

    def show(self, messages: Sequence[Message]) -> None:
        """Show what came back."""

    def picture(self, picture: Picture) -> None:
        """Show an image that the model would see, once."""

    def refuse(self, why: str) -> None:
        """Say why what was written cannot be taken."""

    async def ask(self) -> str | None:
        """What the person writes as the next turn; ``None`` when there is nothing more to come."""


class PersonPolicy:
    """Asks a person for every turn; one episode at a time.

    Args:
        chat: the chat format of the episode.
        desk: where the person sits.
    """

    def __init__(self, chat: Chat, desk: Desk) -> None:
        self._chat, self._desk = chat, desk
        self._scene: Scene | None = None
        self.shown = 0
        """How many messages of the dialogue the person has seen or written."""
        self._pictures: set[str] = set()

    def begin(self, episode: str, scene: Scene) -> None:
        """Show the episode's opening."""
        self._scene, self.shown = scene, len(scene.messages)
        self._pictures.clear()
        self._desk.open(scene)

    def end(self, episode: str) -> None:
        """Forget the episode."""
        self._scene = None

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, episode: str, images: Sequence[Picture] = ()
    ) -> Generation:
        """What the person writes, as tokens; ``length`` where they exceed ``max_tokens``.

        Raises:
            DataError: nothing more is to come, and the episode has not ended.
        """
        scene = self._scene
        assert scene is not None
        if news := scene.messages[self.shown :]:
            self._desk.show(news)
        for picture in images:
            if picture.sha256 not in self._pictures:
                self._pictures.add(picture.sha256)
                self._desk.picture(picture)
        ids = written(self._chat, scene, await self._turn(scene))
        self.shown = len(scene.messages) + 1
        return as_generated(ids, sampling, 0.0, 0)

    async def _turn(self, scene: Scene) -> Message:
        while True:
            line = await self._desk.ask()
            if line is None:
                raise DataError("The input ended before the episode did, so there is no reward.")
            try:
                return read_turn(line, scene.tools)
            except Unclear as problem:
                self._desk.refuse(str(problem))

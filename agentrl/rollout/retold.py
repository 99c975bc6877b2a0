"""A policy that says again what another run's policy said, in this run's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentrl.errors import EngineError, UsageError
from agentrl.observation import Picture
from agentrl.rollout.policy import Generation, Sampling, Scene, as_generated
from agentrl.rollout.scripted import written
from agentrl.trajectory import Message

if TYPE_CHECKING:
    from agentrl.chat import Chat


@dataclass(slots=True)
class _Part:
    scene: Scene
    messages: list[Message]
    version: int


class RetoldPolicy:
    """Says given messages, each as the tokens that this run's model would have sampled for it.

    The episode loop does the rest: it makes the calls with this run's tools and judges with its rewards.
    Log-probs are 0, for nothing was sampled.

    Args:
        chat: the chat format of the episodes.
    """

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._told: dict[str, tuple[list[Message], int]] = {}
        self._parts: dict[str, _Part] = {}

    def tell(self, episode: str, messages: Sequence[Message], version: int) -> None:
        """What is to be said in an episode that is about to begin, and the version its tokens get."""
        self._told[episode] = (list(messages), version)

    def begin(self, episode: str, scene: Scene) -> None:
        """The episode is about to ask for its first turn."""
        messages, version = self._told.pop(episode)
        self._parts[episode] = _Part(scene, messages, version)

    def end(self, episode: str) -> None:
        """The episode asks for no more turns."""
        self._parts.pop(episode, None)
        self._told.pop(episode, None)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, episode: str, images: Sequence[Picture] = ()
    ) -> Generation:
        """The next message, as tokens; ``length`` where they exceed ``max_tokens``.

        Raises:
            EngineError: there is no next message, or this run's chat format cannot write it: what came from
                outside never stops the run, it voids the episode.
        """
        part = self._parts[episode]
        if not part.messages:
            raise EngineError("A shared episode ended where here it goes on.")
        message = part.messages.pop(0)
        try:
            ids = written(self._chat, part.scene, message)
        except (UsageError, ValueError, TypeError, KeyError, IndexError) as problem:
            raise EngineError(
                f"A shared message cannot be written in this chat format: {problem}"
            ) from problem
        return as_generated(ids, sampling, 0.0, part.version)

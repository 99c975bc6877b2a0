"""Policies that write messages instead of sampling: token by token as a model would have."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentrl.env import Expert
from agentrl.errors import DefinitionError
from agentrl.observation import Picture
from agentrl.rollout.policy import Generation, Sampling, Scene, as_generated
from agentrl.rollout.toolbox import user_code
from agentrl.trajectory import Message, words_of

if TYPE_CHECKING:
    from agentrl.chat import Chat


Script = Callable[[Scene, random.Random], Expert | None]
"""What a scripted episode says: ``None`` if there is nothing to be said."""


def expert_of(scene: Scene, rng: random.Random) -> Expert | None:
    """The script that is the environment's own expert."""
    return scene.env.expert(scene.task, rng)


def written(chat: Chat, scene: Scene, message: Message) -> list[int]:
    """The tokens that a model would have sampled to say ``message`` next, the stop token included."""
    return chat.demonstration_turn([*scene.messages, message], scene.tools)


@dataclass(slots=True)
class _Part:
    scene: Scene
    expert: Expert
    started: bool = False


class ScriptedPolicy:
    """Plays :meth:`agentrl.Env.expert`, or another script: for warm-up demonstrations, audits and tests.

    Every message that the expert yields becomes exactly the tokens that a model would have sampled
    for it, with a log-probability of 0. The expert is sent the texts of the observations as they
    were shown, in order.

    Args:
        chat: the chat format of the episodes.
        script: written as an expert is; by default the environment's own.
        version: given to every token.
    """

    def __init__(self, chat: Chat, script: Script = expert_of, *, version: int = 0) -> None:
        self._chat, self._script, self._version = chat, script, version
        self._parts: dict[str, _Part] = {}

    def begin(self, episode: str, scene: Scene) -> None:
        """Start the expert of the episode's environment.

        Raises:
            DefinitionError: the environment has none.
            UserCodeError: it raised.
        """
        name = scene.env.name
        with user_code(f"Environment {name}: expert()"):
            expert = self._script(scene, random.Random(scene.seed))
        if expert is None:
            raise DefinitionError(
                f"Environment {name} has no expert, so nothing can be demonstrated: define expert()."
            )
        self._parts[episode] = _Part(scene, expert)

    def end(self, episode: str) -> None:
        """Let the expert go."""
        part = self._parts.pop(episode, None)
        if part is not None:
            part.expert.close()

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, episode: str, images: Sequence[Picture] = ()
    ) -> Generation:
        """The expert's next message, as tokens; ``length`` where they exceed ``max_tokens``.

        Raises:
            DefinitionError: the expert has nothing more to say, or what it said is no assistant message.
            UserCodeError: the expert raised.
        """
        part = self._parts[episode]
        ids = written(self._chat, part.scene, self._next(part))
        return as_generated(ids, sampling, 0.0, self._version)

    def _next(self, part: _Part) -> Message:
        env, task = part.scene.env.name, part.scene.task.id
        with user_code(f"Environment {env}: expert()"):
            try:
                message = (
                    part.expert.send(_observed(part.scene.messages)) if part.started else next(part.expert)
                )
            except StopIteration:
                raise DefinitionError(
                    f"The expert of environment {env} ended while task {task} goes on. Its last message "
                    "must be one that ends the episode."
                ) from None
        part.started = True
        if not isinstance(message, dict) or message.get("role", "assistant") != "assistant":
            raise DefinitionError(
                f"The expert of environment {env} yielded {message!r}, which is no assistant message."
            )
        return {"role": "assistant", **message}


def _observed(messages: Sequence[Message]) -> list[str]:
    """The texts of what came after the last assistant message."""
    last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
    return [words_of(message) for message in messages[last + 1 :]]

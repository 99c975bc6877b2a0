"""What an episode samples from: token ids in, token ids with log-probabilities and versions out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self, runtime_checkable

from agentrl.env import Env
from agentrl.errors import EngineError
from agentrl.observation import Picture
from agentrl.task import Task
from agentrl.trajectory import Message

StopReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one turn is sampled.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: the share of probability that is sampled from.
        max_tokens: at which the turn is cut off.
        stop_token_ids, stop_strings: generation ends at any of these; they are part of it.
        seed: makes the draw repeatable where the engine can; ``None`` draws freely.
        banned_token_ids: are never drawn.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 1024
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    seed: int | None = None
    banned_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """One turn as it came from the engine. Legend: ``T`` sampled tokens.

    Args:
        token_ids: including the stop token, if one was sampled. ``[T]``
        logprobs: of each token, under the distribution it was drawn from. ``[T]``
        versions: the policy version that drew each token. ``[T]``
        stop_reason: ``stop``, or ``length`` where ``max_tokens`` cut it off.
    """

    token_ids: list[int]
    logprobs: list[float]
    versions: list[int]
    stop_reason: StopReason = "stop"

    def checked(self, sampling: Sampling) -> Self:
        """The generation, if it is one of those that were asked for.

        Raises:
            EngineError: it is too long, or holds a token that was banned.
        """
        if len(self.token_ids) > sampling.max_tokens:
            raise EngineError(
                f"The engine returned {len(self.token_ids)} tokens where at most {sampling.max_tokens} were "
                "asked for."
            )
        if not set(sampling.banned_token_ids).isdisjoint(self.token_ids):
            raise EngineError("The engine drew a token that stands for an image, which was banned.")
        return self


class Policy(Protocol):
    """A model that can be sampled from, by many episodes at once."""

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, episode: str, images: Sequence[Picture] = ()
    ) -> Generation:
        """Sample one turn.

        Args:
            prompt_ids: everything before the turn.
            sampling: see :class:`Sampling`.
            episode: the episode's name, the same for all its turns (for caches and routing).
            images: the pictures that the placeholders of the prompt stand for, in order.

        Raises:
            EngineError: the engine failed or went away.
        """


@dataclass(frozen=True, slots=True)
class Scene:
    """What an episode shows to a policy that plays a part instead of sampling.

    Args:
        env: the episode's environment, after its reset.
        task: what is to be done.
        seed: the episode's.
        tools: schemas of the tools.
        messages: the dialogue so far. The episode appends to this very list.
    """

    env: Env
    task: Task
    seed: int
    tools: Sequence[dict[str, object]]
    messages: Sequence[Message]


@runtime_checkable
class SceneAware(Protocol):
    """A policy that is told about each episode it plays in."""

    def begin(self, episode: str, scene: Scene) -> None:
        """The episode is about to ask for its first turn."""

    def end(self, episode: str) -> None:
        """The episode asks for no more turns."""


Respond = Callable[[Sequence[int], str], Sequence[int]]


class SimulatedPolicy:
    """A policy that a function speaks for, with a latency of one's choice; for tests and benchmarks.

    Args:
        respond: ``(prompt_ids, episode) -> token ids`` of the whole turn, its stop token included.
        seconds: latency of every generation.
        token_seconds: latency of each token on top.
        logprob: given to every token.
        version: given to every token; may be changed at any time.
    """

    def __init__(
        self,
        respond: Respond,
        *,
        seconds: float = 0.0,
        token_seconds: float = 0.0,
        logprob: float = -1.0,
        version: int = 0,
    ) -> None:
        self.version = version
        self._respond, self._logprob = respond, logprob
        self._seconds, self._token_seconds = seconds, token_seconds

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, episode: str, images: Sequence[Picture] = ()
    ) -> Generation:
        """The function's tokens, after the latency; ``length`` where they exceed ``max_tokens``."""
        ids = list(self._respond(prompt_ids, episode))
        generation = as_generated(ids, sampling, self._logprob, self.version)
        await asyncio.sleep(self._seconds + self._token_seconds * len(generation.token_ids))
        return generation


def as_generated(ids: list[int], sampling: Sampling, logprob: float, version: int) -> Generation:
    """``ids`` as an engine would have returned them: cut off at ``max_tokens``."""
    kept = ids[: sampling.max_tokens]
    reason: StopReason = "stop" if len(kept) == len(ids) else "length"
    return Generation(kept, [logprob] * len(kept), [version] * len(kept), reason)

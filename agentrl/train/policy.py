"""verl's inference servers as a policy of the episode loop."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentrl.chat.vision import Vision, decoded
from agentrl.errors import EngineError
from agentrl.observation import Picture
from agentrl.rollout.policy import Generation, Sampling
from agentrl.rollout.vllm_policy import BAN


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What the engine was given and what it sampled, kept apart from the trajectory for the doctor."""

    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    pictures: tuple[Picture, ...] = ()
    versions: tuple[int, ...] = ()
    cached: int = 0
    """Tokens of the prompt that the engine had in its prefix cache."""

    def record(self, vision: Vision | None) -> dict[str, Any]:
        """As the doctor reads it: of each picture the fingerprint of its pixel values."""
        pixels = [vision.digest(picture) for picture in self.pictures] if vision else []
        return {
            "prompt_ids": self.prompt_ids, "token_ids": self.token_ids, "logprobs": self.logprobs,
            "pixels": pixels, "versions": list(self.versions),
        }  # fmt: skip


class VerlPolicy:
    """Generates with verl's ``LLMServerClient``.

    One request id per episode keeps an episode on one replica, where its prefix is cached.

    Args:
        client: verl's client.
        seconds: limit of one generation.
    """

    def __init__(self, client: Any, seconds: float) -> None:
        self._client = client
        self._seconds = seconds
        self._ledger: dict[str, list[LedgerEntry]] = defaultdict(list)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, episode: str, images: Sequence[Picture] = ()
    ) -> Generation:
        """Sample one turn.

        Raises:
            EngineError: the engine failed, is gone, or did not answer in time.
        """
        parameters: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": -1,
            "repetition_penalty": 1.0,
            "logprobs": True,
            "max_tokens": sampling.max_tokens,
            "stop_token_ids": list(sampling.stop_token_ids),
        }
        if sampling.seed is not None:
            parameters["seed"] = sampling.seed
        if sampling.banned_token_ids:
            parameters["logit_bias"] = dict.fromkeys(sampling.banned_token_ids, BAN)
        if sampling.stop_strings:
            parameters |= {"stop": list(sampling.stop_strings), "include_stop_str_in_output": True}
        try:
            output = await asyncio.wait_for(
                self._client.generate(
                    episode,
                    prompt_ids=list(prompt_ids),
                    sampling_params=parameters,
                    **({"image_data": [decoded(picture) for picture in images]} if images else {}),
                ),
                self._seconds,
            )
        except TimeoutError as problem:
            raise EngineError(
                f"The inference engine did not answer within {self._seconds:g} s (rollout.response_seconds)."
            ) from problem
        except Exception as problem:  # Ray wraps whatever the replica raised
            raise EngineError(
                f"The inference engine failed: {type(problem).__name__}: {problem}"
            ) from problem
        given = LedgerEntry(list(prompt_ids), [], [], tuple(images))
        return self._generation(given, output, sampling, episode)

    def _generation(self, given: LedgerEntry, output: Any, sampling: Sampling, episode: str) -> Generation:
        tokens = list(output.token_ids)
        if output.stop_reason == "aborted" or not tokens or output.log_probs is None:
            raise EngineError(f"The inference engine gave up on a turn (stop reason {output.stop_reason!r}).")
        stopped = len(tokens) < sampling.max_tokens or tokens[-1] in sampling.stop_token_ids
        logprobs = list(output.log_probs)
        version = output.extra_fields.get("global_steps")
        # A turn that a weight update interrupted has tokens of several versions.
        versions = output.extra_fields.get("token_versions") or [-1 if version is None else version] * len(
            tokens
        )
        entry = replace(
            given,
            token_ids=tokens,
            logprobs=logprobs,
            versions=tuple(versions),
            cached=output.extra_fields.get("num_cached_tokens") or 0,
        )
        self._ledger[_plain(episode)].append(entry)
        return Generation(
            token_ids=tokens,
            logprobs=logprobs,
            versions=list(versions),
            stop_reason="stop" if stopped else "length",
        )

    def take_ledger(self, episode: str) -> list[LedgerEntry]:
        """The episode's generations, of all attempts and in order; forgotten afterwards."""
        return self._ledger.pop(_plain(episode), [])


def _plain(episode: str) -> str:
    """An episode's name without the number that the episode loop adds to further attempts."""
    return episode.partition("~")[0]

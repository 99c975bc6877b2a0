"""A judge's place: a chat model behind an OpenAI-compatible endpoint, with limits."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentrl import ConfigError, NoVerdict
from agentrl.tools.completions import Completions, Refused, TryAgain, Unanswered, shown

MAX_BYTES = 1 << 20
"""Bytes of an answer that are read; a longer one is none."""

LONGEST_WAIT = 60.0
"""Seconds waited before another try at most, whatever the server asks for."""

REFUSED = {401, 403, 404}
"""Statuses that no other request will change: the key, the address or the model's name is wrong."""


@dataclass
class Endpoint:
    """A chat model at an address.

    Args:
        url: up to and including ``/v1``.
        model: its name there.
        key: the environment variable that holds the API key; without it, none is sent.
        at_once: requests under way at once, per process.
        per_minute: requests started per minute, per process; ``None`` for no limit.
        seconds: one request.
        retries: further tries after a failure that may pass.
        wait_seconds: before the first of them; doubles each time, is spread by chance, and gives way to
            the server's Retry-After. Never above 60 s.
        max_tokens: of one answer.
        parameters: more fields of the request, such as ``temperature``.
    """

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    at_once: int = 16
    per_minute: float | None = None
    seconds: float = 60.0
    retries: int = 4
    wait_seconds: float = 1.0
    max_tokens: int = 512
    parameters: dict[str, Any] = field(default_factory=lambda: {"temperature": 0.0})

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url={self.url!r} must begin with http:// or https:// and end in /v1.")
        limits = {"at_once": self.at_once, "seconds": self.seconds, "max_tokens": self.max_tokens}
        for name, value in {**limits, "per_minute": self.per_minute}.items():
            if value is not None and value <= 0:
                raise ConfigError(f"{name}={value} must be above 0.")
        if self.retries < 0 or self.wait_seconds < 0:
            raise ConfigError(
                f"retries={self.retries} and wait_seconds={self.wait_seconds} must not be below 0."
            )
        self.completions = Completions(
            self.url,
            at_once=self.at_once,
            seconds=self.seconds,
            retries=self.retries,
            first_wait=self.wait_seconds,
            longest_wait=LONGEST_WAIT,
            most_bytes=MAX_BYTES,
            per_minute=self.per_minute,
        )

    async def ask(self, messages: list[dict[str, str]]) -> str:
        """The model's answer.

        Raises:
            NoVerdict: no answer was had in all tries, or the request was turned down.
            ConfigError: the key, the address or the model's name is wrong.
        """
        body = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens, **self.parameters}
        where = f"{self.model} at {self.url}"
        try:
            return await self.completions.ask(body, _content, key=os.environ.get(self.key))
        except Unanswered as problem:
            raise NoVerdict(f"{where} gave no answer {problem}.") from problem
        except Refused as problem:
            if problem.status not in REFUSED:
                raise NoVerdict(f"{where} answers with {problem}.") from problem
            raise ConfigError(
                f"{where} answers with {problem}. Check url=, model= and the key in the variable {self.key}."
            ) from problem


def endpoint_of(options: Mapping[str, Any], part: str) -> Endpoint:
    """An endpoint by its options.

    Raises:
        ConfigError: one is missing, unknown or does not fit.
    """
    try:
        return Endpoint(**options)
    except TypeError as problem:
        raise ConfigError(f"algorithm.{part}.options.endpoint: {problem}.") from problem


def _content(raw: bytes) -> str:
    """The text of a chat completion."""
    try:
        text = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as problem:
        raise TryAgain(f"no chat completion: {shown(raw)!r}") from problem
    if not isinstance(text, str):
        raise TryAgain(f"content that is no text: {type(text).__name__}")
    return text

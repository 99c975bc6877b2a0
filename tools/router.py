"""Ask other models, by name and at a price, over any OpenAI-compatible endpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentrl import ConfigError, InfrastructureError, Observation, Tool, ToolError
from agentrl.tools.completions import Completions, Crowded, Refused, TryAgain, Unanswered, shown

MARGIN_SECONDS = 5.0
FIRST_WAIT_SECONDS = 0.5
"""Between two tries, about; doubles each time."""
MOST_WAIT_SECONDS = 10.0
"""The longest wait before a call is tried again, whatever the endpoint asks for."""


class RoutedModel(BaseModel):
    """A model that can be asked.

    Args:
        name: by which it is asked for.
        url: base URL of an OpenAI-compatible endpoint, such as ``http://host:8000/v1``.
        price: of a million completion tokens, in the same currency for all models.
        description: what the asking model is told it is good for.
        model: what the endpoint calls it; by default ``name``.
        key_env: the environment variable that holds the endpoint's key; by default none is sent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[\w./@+-]+$")
    url: str = Field(pattern=r"^https?://[^/\s]+")
    price: float = Field(ge=0, allow_inf_nan=False)
    description: str = ""
    model: str = ""
    key_env: str = ""

    def key(self) -> str | None:
        """What says who asks.

        Raises:
            ConfigError: the variable that ``key_env`` names is not set.
        """
        if not self.key_env:
            return None
        key = os.environ.get(self.key_env)
        if not key:
            raise ConfigError(f"Model {self.name!r} takes its key from ${self.key_env}, which is not set.")
        return key

    def blame(self, problem: Refused) -> ConfigError | ToolError:
        """What it means that the endpoint turned a query down: that depends on who can mend it."""
        where, said = f"Model {self.name!r} ({self.url})", f"(status {problem.status}: {problem.said})"
        if problem.status in (401, 403):
            given = f"the key in ${self.key_env}" if self.key_env else "a call without a key; set key_env"
            return ConfigError(f"{where} refuses {given} {said}.")
        if problem.status in (404, 405) or problem.status < 400:
            called = self.model or self.name
            return ConfigError(f"{where} is not at that URL, or not under the name {called!r} {said}.")
        return ToolError(f"Model {self.name!r} does not take this query: {problem.said}")


class Router(Tool):
    """Asks other models. The policy is told their names, prices and descriptions.

    All episodes of a process share the connections. A call that fails on the way is tried again; what cannot
    be reached in the end is an infrastructure error. The call's own limit is wide enough for all tries, so
    keep ``rollout.episode_seconds`` above it, lest a model that hangs uses up the episode's time instead.

    Args:
        models: who can be asked: :class:`RoutedModel`, or mappings of its fields.
        instruction: a system message that goes before every query.
        temperature: at which they are sampled.
        max_tokens: of an answer.
        seconds: for one try.
        retries: further tries of a call.
        connections: at once to each model; further calls wait.
        queue_seconds: how long they wait.
        most_bytes: of an endpoint's response.

    The observation's metadata holds ``model``, ``completion_tokens`` and ``cost``, their number times the
    price: millionths of its currency.

    Raises:
        ConfigError: a model or a limit does not fit, or a key is not set.
    """

    parallel = True

    def __init__(
        self,
        models: Sequence[RoutedModel | Mapping[str, Any]],
        instruction: str = "",
        temperature: float = 0.0,
        max_tokens: int = 512,
        seconds: float = 60.0,
        retries: int = 2,
        connections: int = 32,
        queue_seconds: float = 60.0,
        most_bytes: int = 4 << 20,
    ) -> None:
        if not (max_tokens > 0 and seconds > 0 and retries >= 0 and connections > 0 and queue_seconds > 0):
            raise ConfigError(
                "The options max_tokens, seconds, connections and queue_seconds of the router have to be "
                "above 0, and retries at least 0."
            )
        self.models = {model.name: model for model in _checked(models)}
        self.instruction, self.temperature, self.max_tokens = instruction, temperature, max_tokens
        self.seconds = queue_seconds + (retries + 1) * seconds + retries * MOST_WAIT_SECONDS + MARGIN_SECONDS
        self.endpoints = {
            model.name: Completions(
                model.url,
                at_once=connections,
                seconds=seconds,
                retries=retries,
                first_wait=FIRST_WAIT_SECONDS,
                longest_wait=MOST_WAIT_SECONDS,
                most_bytes=most_bytes,
                queue_seconds=queue_seconds,
            )
            for model in self.models.values()
        }

    @property
    def description(self) -> str:
        """What the tool does, and who can be asked."""
        known = (
            f"{model.name} ({model.price:g} per million tokens){': ' if model.description else ''}"
            f"{model.description}"
            for model in self.models.values()
        )
        return "\n".join([super().description, *known])

    @property
    def schema(self) -> dict[str, Any]:
        """As every tool's, with the names as the values of ``model``."""
        schema = super().schema
        schema["function"]["parameters"]["properties"]["model"]["enum"] = list(self.models)
        return schema

    async def call(self, model: str, query: str) -> Observation:
        """Ask another model and read its answer. It costs its price for every token of the answer.

        Args:
            model: which one
            query: what to ask it
        """
        asked = self.models.get(model)
        if asked is None:
            raise ToolError(f"There is no model {model[:80]!r}. There are: {', '.join(self.models)}.")
        if not query.strip():
            raise ToolError("The query is empty. Say what to ask.")
        completion = await self._ask(asked, query)
        tokens = completion.usage.completion_tokens
        return Observation(
            completion.choices[0].message.content or "(no text)",
            metadata={"model": model, "completion_tokens": tokens, "cost": tokens * asked.price},
        )

    async def _ask(self, asked: RoutedModel, query: str) -> _Completion:
        """The model's completion.

        Raises:
            InfrastructureError: it cannot be had, after all tries.
            ConfigError: the endpoint refuses the key, or knows no such path or model.
            ToolError: the endpoint does not take the query.
        """
        messages = [{"role": "system", "content": self.instruction}] if self.instruction else []
        body = {
            "model": asked.model or asked.name,
            "messages": [*messages, {"role": "user", "content": query}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        endpoint = self.endpoints[asked.name]
        where = f"model {asked.name!r} ({asked.url})"
        try:
            return await endpoint.ask(body, _read, key=asked.key())
        except Unanswered as problem:
            raise InfrastructureError(f"The router had no answer of {where} {problem}.") from problem
        except Crowded:
            raise InfrastructureError(
                f"All {endpoint.at_once} connections of the router to {where} were busy for "
                f"{endpoint.queue_seconds:g} s. Raise connections, or serve the model by more machines."
            ) from None
        except Refused as problem:
            raise asked.blame(problem) from problem


# ---- on the wire ------------------------------------------------------------------------------


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Usage(BaseModel):
    completion_tokens: int = Field(ge=0, strict=True)


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage


def _read(raw: bytes) -> _Completion:
    try:
        return _Completion.model_validate_json(raw)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise TryAgain(f"no chat completion ({place} {first['msg']}): {shown(raw)}") from None


def _checked(models: Sequence[RoutedModel | Mapping[str, Any]]) -> list[RoutedModel]:
    if isinstance(models, str) or not models:
        raise ConfigError("The router needs models: a list of name, url, price and description.")
    checked = []
    for number, model in enumerate(models, start=1):
        try:
            checked.append(RoutedModel.model_validate(model))
        except ValidationError as problem:
            first = problem.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f"Model {number} of the router: {field}: {first['msg']} (got {str(first['input'])[:80]!r}). "
                f"Its fields: {', '.join(RoutedModel.model_fields)}."
            ) from None
        checked[-1].key()  # a key that is not set is told before the run begins
    names = [model.name for model in checked]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"Several models of the router are called {', '.join(twice)}; rename one.")
    return checked

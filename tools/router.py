"""Ask other models, by name and at a price, over any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentrl import ConfigError, InfrastructureError, Observation, Tool, ToolError

MARGIN_SECONDS = 5.0
FIRST_WAIT_SECONDS = 0.5
"""Between two tries; doubles each time."""
MOST_WAIT_SECONDS = 10.0
"""The longest wait before a call is tried again, whatever the endpoint asks for."""
SHOWN = 300
"""Characters of an endpoint's error that are repeated."""


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

    def headers(self) -> dict[str, str]:
        """What says who asks.

        Raises:
            ConfigError: the variable that ``key_env`` names is not set.
        """
        if not self.key_env:
            return {}
        key = os.environ.get(self.key_env)
        if not key:
            raise ConfigError(f"Model {self.name!r} takes its key from ${self.key_env}, which is not set.")
        return {"Authorization": f"Bearer {key}"}


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
        self.endpoints = _Endpoints(seconds, retries, connections, queue_seconds, most_bytes)

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

    async def open(self) -> None:
        """Take part in the shared connections."""
        self.endpoints.enter()

    async def close(self) -> None:
        """Let go of them; the last episode closes them."""
        await self.endpoints.leave()

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
        completion = await self.endpoints.ask(asked, self._body(asked, query))
        tokens = completion.usage.completion_tokens
        return Observation(
            completion.choices[0].message.content or "(no text)",
            metadata={"model": model, "completion_tokens": tokens, "cost": tokens * asked.price},
        )

    def _body(self, asked: RoutedModel, query: str) -> dict[str, Any]:
        messages = [{"role": "system", "content": self.instruction}] if self.instruction else []
        return {
            "model": asked.model or asked.name,
            "messages": [*messages, {"role": "user", "content": query}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }


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


class _Failed(Exception):
    """A try failed in a way that another may not; ``wait`` is what the endpoint asks for, in seconds."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


@dataclass(frozen=True)
class _Response:
    status: int
    body: bytes
    retry_after: str

    @property
    def shown(self) -> str:
        return " ".join(self.body[: 4 * SHOWN].decode(errors="replace").split())[:SHOWN]


class _Endpoints:
    """The connections to the models, open as long as an episode uses them."""

    def __init__(
        self, seconds: float, retries: int, connections: int, queue_seconds: float, most_bytes: int
    ) -> None:
        self._seconds, self._retries, self._most_bytes = seconds, retries, most_bytes
        self._connections, self._queue_seconds = connections, queue_seconds
        self._users = 0
        self._session: aiohttp.ClientSession | None = None
        self._slots: dict[str, asyncio.Semaphore] = {}

    def enter(self) -> None:
        self._users += 1

    async def leave(self) -> None:
        self._users -= 1
        if self._users == 0:
            session, self._session = self._session, None
            self._slots = {}  # like the session, they belong to this event loop
            if session is not None:
                await session.close()

    async def ask(self, model: RoutedModel, body: Mapping[str, Any]) -> _Completion:
        """The model's completion.

        Raises:
            InfrastructureError: it cannot be had, after all tries.
            ConfigError: the endpoint refuses the key, or knows no such path or model.
            ToolError: the endpoint does not take the query.
        """
        slot = self._slots.setdefault(model.name, asyncio.Semaphore(self._connections))
        try:
            async with asyncio.timeout(self._queue_seconds):
                await slot.acquire()
        except TimeoutError:
            raise InfrastructureError(
                f"All {self._connections} connections of the router to model {model.name!r} ({model.url}) "
                f"were busy for {self._queue_seconds:g} s. Raise connections, or serve the model by more "
                "machines."
            ) from None
        try:
            return await self._tried(model, body)
        finally:
            slot.release()

    async def _tried(self, model: RoutedModel, body: Mapping[str, Any]) -> _Completion:
        tries, number = self._retries + 1, 0
        while True:
            number += 1
            try:
                return _read(await self._post(model, body), model)
            except _Failed as problem:
                if number == tries:
                    raise InfrastructureError(
                        f"Model {model.name!r} ({model.url}) could not be asked, in {tries} tries; the last "
                        f"one ended so: {problem}."
                    ) from problem
                await asyncio.sleep(
                    min(max(problem.wait, FIRST_WAIT_SECONDS * 2 ** (number - 1)), MOST_WAIT_SECONDS)
                )

    async def _post(self, model: RoutedModel, body: Mapping[str, Any]) -> _Response:
        if self._session is None:
            # Slots bound the connections, and waiting for one is not part of a try's time.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
            )
        try:
            async with self._session.post(
                f"{model.url.rstrip('/')}/chat/completions",
                json=body,
                headers=model.headers(),
                allow_redirects=False,  # the key is meant for this host alone
                timeout=aiohttp.ClientTimeout(total=self._seconds),
            ) as response:
                content = bytearray()
                async for chunk in response.content.iter_chunked(1 << 16):
                    content += chunk
                    if len(content) > self._most_bytes:
                        raise _Failed(f"the response has more than {self._most_bytes} bytes (most_bytes)")
                return _Response(response.status, bytes(content), response.headers.get("Retry-After", ""))
        except TimeoutError:
            raise _Failed(f"no answer in {self._seconds:g} s (seconds)") from None
        except (aiohttp.ClientError, OSError) as problem:
            raise _Failed(f"{type(problem).__name__}: {problem}") from problem


def _read(response: _Response, model: RoutedModel) -> _Completion:
    """The completion in a response.

    Raises:
        _Failed, ConfigError, ToolError: there is none; which one depends on who can mend it.
    """
    where = f"Model {model.name!r} ({model.url})"
    status = response.status
    if status in (401, 403):
        given = f"the key in ${model.key_env}" if model.key_env else "a call without a key; set key_env"
        raise ConfigError(f"{where} refuses {given} (status {status}: {response.shown}).")
    if status in (404, 405) or 300 <= status < 400:
        raise ConfigError(
            f"{where} is not at that URL, or not under the name {model.model or model.name!r} "
            f"(status {status}: {response.shown})."
        )
    if status in (400, 413, 422):
        raise ToolError(f"Model {model.name!r} does not take this query: {response.shown}")
    if status != 200:
        wait = float(response.retry_after) if response.retry_after.isdecimal() else 0.0
        raise _Failed(f"status {status}: {response.shown}", wait)
    try:
        return _Completion.model_validate_json(response.body)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _Failed(f"no chat completion ({place} {first['msg']}): {response.shown}") from None


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
        checked[-1].headers()  # a key that is not set is told before the run begins
    names = [model.name for model in checked]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"Several models of the router are called {', '.join(twice)}; rename one.")
    return checked

"""Environments that an OpenEnv server hosts: one WebSocket session per episode, stepped by a tool."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentrl import ConfigError, InfrastructureError, Observation, SessionLost, Task, Tool, ToolError
from agentrl.envs.stepping import Stepping

if TYPE_CHECKING:
    from aiohttp import ClientSession, ClientWebSocketResponse

ANSWER_BYTES = 16 << 20
"""The longest message that is taken from a server."""
_OWN = ("metadata", "done", "reward")
"""Fields that every action or observation has, and that say nothing of the task."""


class OpenEnv(Stepping):
    """Plays an environment of an OpenEnv server through a tool ``act``, whose parameters are its actions'.

    The server says which those are when the environment is made. Errors that it reports for an action are
    shown to the model; a server that is lost, full or silent voids the episode.

    Args:
        url: the server's address, such as ``http://127.0.0.1:8000``.
        show: the observation's field that the model is shown; default: its only one, or all of them as JSON.
        reset_options: sent with every reset, beside the task's seed.
        instruction: the user's message, before the first observation.
        prompt: the system prompt, a Jinja template or its file.
        size: tasks of the train split; the test split has a quarter of it, at most 256.
        seed: other seeds make other tasks.
        start_seconds: how long the server may take to answer when it is asked for its schema or a reset.

    Raises:
        ConfigError: an option does not fit.
        InfrastructureError: the server cannot be asked.
    """

    name = "openenv"

    def __init__(
        self,
        url: str,
        show: str | None = None,
        reset_options: Mapping[str, Any] | None = None,
        instruction: str = "Act with the tool act until it is over.",
        prompt: str | None = None,
        size: int = 1000,
        seed: int = 0,
        start_seconds: float = 60.0,
    ) -> None:
        super().__init__(instruction, prompt, size, seed)
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url={url!r} must start with http:// or https://.")
        self.url, self.show, self.start_seconds = url.rstrip("/"), show, start_seconds
        self.reset_options = dict(reset_options or {})
        self._act = _Act(_action_schema(self.url, start_seconds))
        self.tools = (self._act,)
        self._session: _Session | None = None

    async def reset(self, task: Task) -> None:
        """Begin a session of this episode's own and reset its environment."""
        session = self._session = _Session(self.url, self.start_seconds)
        answer = await session.start({**self.reset_options, "seed": task.metadata["seed"]})
        self.opening = self.to_text(answer.get("observation") or {})
        self.tools = (self._act.of(self),)

    async def close(self) -> None:
        """End the session."""
        if self._session is not None:
            await self._session.close()

    async def step(self, action: Mapping[str, Any]) -> Observation:
        """Take a step.

        Raises:
            ToolError: the server refuses the action.
            SessionLost: it is gone.
        """
        if self._session is None:
            raise InfrastructureError(f"The OpenEnv session at {self.url} was not begun.")
        answer = await self._session.ask("step", action)
        reward = float(answer.get("reward") or 0.0)
        text = self.to_text(answer.get("observation") or {})
        return Observation(text, done=bool(answer.get("done")), metadata={**answer, "reward": reward})

    def to_text(self, observation: Mapping[str, Any]) -> str:
        """An observation as the model is shown it."""
        fields = {name: value for name, value in observation.items() if name not in _OWN}
        if self.show is not None and self.show not in fields:
            raise ConfigError(f"show={self.show!r} is no field of the observation: {', '.join(fields)}.")
        shown: Any = fields
        if self.show is not None or len(fields) == 1:
            shown = fields[self.show or next(iter(fields))]
        return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)


class _Act(Tool):
    """Takes a step in the environment; the server checks the action."""

    name = "act"

    def __init__(self, schema: Mapping[str, Any], env: OpenEnv | None = None) -> None:
        self._action, self._env = schema, env

    def of(self, env: OpenEnv) -> _Act:
        """The tool of one episode's environment."""
        return _Act(self._action, env)

    @property
    def description(self) -> str:
        return "Act and see what comes of it."

    @property
    def schema(self) -> dict[str, Any]:
        properties = {k: v for k, v in self._action.get("properties", {}).items() if k not in _OWN}
        kept = {key: self._action[key] for key in ("required", "$defs") if key in self._action}
        parameters = {"type": "object", "properties": properties, **kept}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": parameters},
        }

    async def invoke(self, arguments: Mapping[str, Any]) -> Observation:
        if self._env is None:
            raise InfrastructureError("An action was taken before the environment was reset.")
        return await self._env.step(arguments)


class _Session:
    """One WebSocket to the server, which hosts an environment for as long as it is open."""

    def __init__(self, url: str, start_seconds: float) -> None:
        self._url, self._seconds = url, start_seconds
        self._client: ClientSession | None = None
        self._socket: ClientWebSocketResponse | None = None
        self._waiting = False

    async def start(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Connect and reset the environment; returns the answer to that.

        Raises:
            InfrastructureError: the server cannot be reached, is full, failed or took too long.
        """
        import aiohttp

        self._client = aiohttp.ClientSession()
        address = f"ws{self._url.removeprefix('http')}/ws"
        try:
            async with asyncio.timeout(self._seconds):
                self._socket = await self._client.ws_connect(address, max_msg_size=ANSWER_BYTES)
                return await self.ask("reset", options)
        except TimeoutError:
            why = f"it did not answer in {self._seconds:g} s (start_seconds)"
        except (aiohttp.ClientError, OSError) as problem:
            why = f"it cannot be reached: {problem}"
        except ToolError as problem:
            why = f"its reset failed: {problem}"
        raise InfrastructureError(f"OpenEnv server {self._url} gives no episode: {why}.")

    async def ask(self, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message and await its answer.

        Raises:
            ToolError: the server reports an error.
            SessionLost: it is gone, or an answer to an earlier message is still to come.
        """
        from aiohttp import WSMsgType

        if self._socket is None or self._waiting:
            raise SessionLost(f"The session at OpenEnv server {self._url} was left in the middle of a step.")
        self._waiting = (
            True  # until the answer is there: one that comes later must not be taken for another's
        )
        try:
            await self._socket.send_json({"type": kind, "data": dict(data)})
            message = await self._socket.receive()
        except (OSError, RuntimeError) as problem:
            raise SessionLost(f"OpenEnv server {self._url} was lost: {problem}.") from problem
        if message.type is not WSMsgType.TEXT:
            raise SessionLost(f"OpenEnv server {self._url} ended the session.")
        self._waiting = False
        return _answer(message.data, self._url)

    async def close(self) -> None:
        """End the session."""
        if self._socket is not None:
            await self._socket.close()
        if self._client is not None:
            await self._client.close()


def _answer(text: str, url: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
        kind, data = answer["type"], answer.get("data", {})
    except (ValueError, TypeError, KeyError) as problem:
        raise InfrastructureError(
            f"OpenEnv server {url} sent {text[:80]!r}, which is no answer."
        ) from problem
    if kind != "error":
        return dict(data)
    if data.get("code") in ("CAPACITY_REACHED", "FACTORY_ERROR", "SESSION_ERROR"):
        raise InfrastructureError(f"OpenEnv server {url}: {data.get('message')} ({data['code']}).")
    details = "".join(
        f"; {'.'.join(map(str, error.get('loc', ())))}: {error.get('msg')}"
        for error in data.get("errors", ())
    )
    raise ToolError(f"{data.get('message', 'the action failed')}{details}")


def _action_schema(url: str, seconds: float) -> Mapping[str, Any]:
    """What the server says its actions are."""
    try:
        with urllib.request.urlopen(f"{url}/schema", timeout=seconds) as answer:  # noqa: S310  http or https
            schema = json.load(answer)["action"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise InfrastructureError(
            f"OpenEnv server {url} does not tell its schema: {problem}. Does it run?"
        ) from problem
    if not isinstance(schema, dict):
        raise InfrastructureError(f"OpenEnv server {url} sent no schema of its actions.")
    return schema

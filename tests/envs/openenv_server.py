"""An OpenEnv server for the tests, made with the package openenv: guess a number that the seed decides."""

from __future__ import annotations

import os
import random
import socket
import sys
import time
import types
from typing import Any

# openenv imports fastmcp for servers that offer MCP, which this one does not.
for name, members in {"fastmcp": ["Client", "FastMCP"], "fastmcp.client.client": ["CallToolResult"]}.items():
    module = types.ModuleType(name)
    for member in members:
        setattr(module, member, type(member, (), {}))
    sys.modules[name] = module
sys.modules["fastmcp.client"] = types.ModuleType("fastmcp.client")

import uvicorn  # noqa: E402
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app  # noqa: E402


class Guess(Action):
    number: int


class Hint(Observation):
    text: str


class Guessing(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> Hint:
        self.secret = random.Random(seed).randint(1, 9)
        return Hint(text="A number from 1 to 9.")

    def step(self, action: Guess, **options: Any) -> Hint:
        if action.number == -1:
            os._exit(3)
        if action.number == -2:
            time.sleep(3600)
        if action.number < 0:
            raise ValueError("negative numbers are never right")
        if action.number == self.secret:
            return Hint(text="Right.", done=True, reward=1.0)
        return Hint(text="Higher." if action.number < self.secret else "Lower.", reward=-0.1)

    @property
    def state(self) -> State:
        return State()


app = create_fastapi_app(Guessing, Guess, Hint, max_concurrent_envs=2)

if __name__ == "__main__":
    listening = socket.socket(fileno=int(sys.argv[1]))
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])

"""Models that follow a script, of different skill and price, behind a real endpoint on this machine.

They stand in for a pool of language models where none is given: for trying out, for tests, and for training
without a network.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from agentrl import AgentRLError, InfrastructureError
from agentrl.rewards.words import normalize
from agentrl.tools.router import Router

IGNORANT = "I do not know."
TOKEN_CHARACTERS = 4
"""Characters of an answer that are counted as a token."""


@dataclass(frozen=True)
class Skill:
    """What a scripted model knows, and what it costs.

    Args:
        price: of a million completion tokens.
        description: what policies are told.
        topics: what it knows all about; ``None`` for everything.
        luck: the share of questions it answers rightly although they are of no topic of its own.
        bluffs: whether it answers the rest wrongly, instead of saying that it does not know.
    """

    price: float
    description: str
    topics: tuple[str, ...] | None = ()
    luck: float = 0.0
    bluffs: bool = False


POOL: Mapping[str, Skill] = {
    "sage": Skill(10.0, "knows everything", topics=None),
    "annalist": Skill(2.0, "knows when towns were founded", topics=("founding",)),
    "pilot": Skill(2.0, "knows rivers", topics=("river",)),
    "novice": Skill(0.5, "is right one time in three and bluffs otherwise", luck=1 / 3, bluffs=True),
}


@dataclass(frozen=True)
class Known:
    """A question's answer, and what it is about."""

    answer: str
    topic: str = ""


class Knowledge:
    """What there is to know.

    Args:
        known: by question.
    """

    def __init__(self, known: Mapping[str, Known]) -> None:
        self.known = {normalize(question): fact for question, fact in known.items()}
        self.answers: dict[str, list[str]] = {}
        for fact in self.known.values():
            self.answers.setdefault(fact.topic, []).append(fact.answer)

    def wrong(self, fact: Known, rng: random.Random) -> str | None:
        """A right answer to another question of the topic; ``None`` where all have the same one."""
        answers = self.answers[fact.topic]
        start = rng.randrange(len(answers))
        others = (answer for answer in answers[start:] + answers[:start] if answer != fact.answer)
        return next(others, None)


def reply(name: str, query: str, knowledge: Knowledge, pool: Mapping[str, Skill] = POOL) -> str:
    """What a model says to a query: always the same."""
    skill, question = pool[name], normalize(query)
    fact = knowledge.known.get(question)
    rng = random.Random(f"{name}: {question}")
    if fact is None:
        return IGNORANT
    if skill.topics is None or fact.topic in skill.topics or rng.random() < skill.luck:
        return fact.answer
    return (skill.bluffs and knowledge.wrong(fact, rng)) or IGNORANT


class ScriptedModels:
    """The endpoint of scripted models, on a free port of the loopback, open as long as an episode uses it.

    Args:
        knowledge: makes what they know, once, in a thread: it may read files.
        pool: the models.
    """

    def __init__(self, knowledge: Callable[[], Knowledge], pool: Mapping[str, Skill] = POOL) -> None:
        self._make, self.pool = knowledge, pool
        self._knowledge: Knowledge | None = None
        self._users = 0
        self._starting: asyncio.Task[tuple[web.AppRunner, str]] | None = None

    async def enter(self) -> str:
        """Use it; returns its base URL. Every call needs a :meth:`leave`, even one that failed.

        Raises:
            InfrastructureError: no port can be listened on.
            UsageError: what the models know cannot be read.
        """
        self._users += 1
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        _, url = await asyncio.shield(self._starting)
        return url

    async def leave(self) -> None:
        """Use it no more; the last one closes it."""
        self._users -= 1
        if self._users == 0 and self._starting is not None:
            starting, self._starting = self._starting, None
            try:
                runner, _ = await starting
            except AgentRLError:  # whoever entered has been told
                return
            await runner.cleanup()

    async def _start(self) -> tuple[web.AppRunner, str]:
        if self._knowledge is None:
            self._knowledge = await asyncio.to_thread(self._make)
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        try:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        except OSError as problem:
            await runner.cleanup()
            raise InfrastructureError(
                f"The scripted models could not be started on the loopback: {problem}."
            ) from problem
        host, port = runner.addresses[0][:2]
        return runner, f"http://{host}:{port}/v1"

    async def _complete(self, request: web.Request) -> web.Response:
        try:
            body: dict[str, Any] = await request.json()
            name, query = str(body["model"]), str(body["messages"][-1]["content"])
        except (json.JSONDecodeError, LookupError, TypeError):
            return web.json_response({"error": {"message": "this is no chat completion request"}}, status=400)
        if name not in self.pool:
            return web.json_response({"error": {"message": f"there is no model {name!r}"}}, status=404)
        assert self._knowledge is not None  # nothing listens before it is made
        text = reply(name, query, self._knowledge, self.pool)
        usage = {"prompt_tokens": _tokens(query), "completion_tokens": _tokens(text)}
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {"object": "chat.completion", "model": name, "choices": [choice], "usage": usage}
        )


def _tokens(text: str) -> int:
    return math.ceil(len(text) / TOKEN_CHARACTERS)


class ScriptedRouter(Router):
    """The router over scripted models, which are there from the first episode to the last.

    Args:
        scripted: the models.
        options: further options of :class:`agentrl.tools.router.Router`.
    """

    name = "router"

    def __init__(self, scripted: ScriptedModels, **options: Any) -> None:
        models = [
            {"name": name, "url": "http://127.0.0.1", "price": skill.price, "description": skill.description}
            for name, skill in scripted.pool.items()
        ]
        super().__init__(models, **options)
        self.scripted = scripted

    async def open(self) -> None:
        """Learn where the models are; the first episode starts them."""
        await super().open()
        url = await self.scripted.enter()
        self.models = {name: model.model_copy(update={"url": url}) for name, model in self.models.items()}
        self.endpoints = {name: replace(endpoint, url=url) for name, endpoint in self.endpoints.items()}

    async def close(self) -> None:
        """The last episode ends the models."""
        await super().close()
        await self.scripted.leave()

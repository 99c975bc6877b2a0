"""Search-R1's retrieval protocol, answered by the ``search`` tool."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentrl.errors import UsageError
from agentrl.rollout.waiting import all_of
from agentrl.serve.host import CallRequest, ToolHost

MOST_QUERIES = 1024


class Query(BaseModel):
    """Body of ``POST /retrieve``; unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore")

    queries: list[str] = Field(max_length=MOST_QUERIES)
    topk: int | None = Field(
        None, ge=0, le=100, description="documents per query; empty or 0: the tool's own"
    )
    return_scores: bool = False


def routes(host: ToolHost) -> list[web.RouteDef]:
    """The endpoint ``/retrieve``."""
    return [web.post("/retrieve", SearchR1(host).retrieve)]


class SearchR1:
    """The endpoint's handler."""

    def __init__(self, host: ToolHost) -> None:
        self._host = host

    async def retrieve(self, request: web.Request) -> web.Response:
        """The best documents for each query."""
        try:
            wanted = Query.model_validate_json(await request.read())
        except ValidationError as problem:
            detail = problem.errors(include_url=False, include_context=False, include_input=False)
            return web.json_response({"detail": detail}, status=422)
        if "search" not in {schema["function"]["name"] for schema in await self._host.schemas()}:
            raise web.HTTPNotFound(text="This server has no tool `search`; start it with a corpus.")
        works = [self._search(query, wanted) for query in wanted.queries]
        found = await all_of(works, rank=lambda p: 0 if isinstance(p, UsageError) else 1) if works else []
        return web.json_response({"result": found})

    async def _search(self, query: str, wanted: Query) -> list[dict[str, Any]]:
        arguments: dict[str, Any] = {"query": query}
        if wanted.topk:
            arguments["topk"] = wanted.topk
        answer = await self._host.call(CallRequest("search", arguments))
        if answer.status != "ok":
            raise web.HTTPInternalServerError(text=f"search failed: {answer.observation.text}")
        facts = answer.observation.metadata
        if not wanted.return_scores:
            return list(facts["documents"])
        pairs = zip(facts["documents"], facts["scores"], strict=True)
        return [{"document": document, "score": score} for document, score in pairs]

"""Search-R1's retrieval protocol over a real corpus."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from serve_support import answering

from agentrl.serve.local import LocalHost
from agentrl.serve.protocols import search_r1
from agentrl.tools.search import Search

CORPUS = Path(__file__).parents[1] / "tools" / "corpus.jsonl"


@pytest.fixture
async def url(tmp_path):
    host = LocalHost([Search(str(CORPUS), cache=str(tmp_path))])
    async with answering(search_r1.routes(host)) as address:
        yield f"{address}/retrieve"


async def post(url, body):
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as response:
        return response.status, await response.json() if response.content_type == "application/json" else None


async def test_documents_with_scores_best_first(url):
    queries = ["capital of France", "largest planet"]
    status, body = await post(url, {"queries": queries, "topk": 2, "return_scores": True})
    france, planet = body["result"]
    assert status == 200 and france[0]["document"]["contents"].splitlines()[0] == '"Paris"'
    assert planet[0]["document"]["title"] == "Jupiter" and len(france) == 2
    assert france[0]["score"] > france[1]["score"] > 0


async def test_without_scores_the_documents_alone(url):
    _, body = await post(url, {"queries": ["capital"]})
    assert {document["id"] for document in body["result"][0]} == {"1", "2", "3"}


async def test_a_query_without_a_match_has_no_documents(url):
    assert await post(url, {"queries": ["xylophone", ""], "topk": 0}) == (200, {"result": [[], []]})
    assert await post(url, {"queries": []}) == (200, {"result": []})


@pytest.mark.parametrize("body", [{}, {"queries": "one"}, {"queries": [1]}, {"queries": ["a"], "topk": 1000}])
async def test_requests_that_are_none(url, body):
    status, answer = await post(url, body)
    assert status == 422 and answer["detail"]


async def test_a_server_without_a_corpus_says_so():
    async with answering(search_r1.routes(LocalHost([]))) as address:
        assert (await post(f"{address}/retrieve", {"queries": ["a"]}))[0] == 404

"""The router, against real endpoints: good ones, and ones that die, hang and talk nonsense."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from agentrl import ConfigError, InfrastructureError, ToolContext, ToolError
from agentrl.registry import find_tool
from agentrl.tools import router as router_module
from agentrl.tools.router import Router


def completion(text="Paris.", tokens=7):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": tokens}}


class Endpoint:
    """An OpenAI-compatible server; the name of the model asked for decides how it behaves."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[dict, dict]] = []
        self.busy = self.most_busy = 0
        self.arrived, self.release = asyncio.Event(), asyncio.Event()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append((body, dict(request.headers)))
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        self.arrived.set()
        try:
            return await getattr(self, f"as_{body['model']}")(request)
        finally:
            self.busy -= 1

    async def as_good(self, request):
        return web.json_response(completion())

    async def as_silent(self, request):
        return web.json_response(completion(None, 0))

    async def as_slow(self, request):
        await self.release.wait()
        return web.json_response(completion())

    async def as_yielding(self, request):
        await asyncio.sleep(0)
        return web.json_response(completion())

    async def as_flaky(self, request):
        if len(self.requests) == 1:
            return web.Response(status=429, headers={"Retry-After": "3600"})
        if len(self.requests) == 2:
            return await self.as_dying(request)
        return web.json_response(completion())

    async def as_dying(self, request):
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"choices": [')
        request.transport.abort()
        return response

    async def as_broken(self, request):
        return web.Response(status=503, text="no GPU left")

    async def as_garbled(self, request):
        return web.Response(text='{"choices": [{"message": {"content": "Par', content_type="application/json")

    async def as_deep(self, request):
        return web.Response(text="[" * 40_000, content_type="application/json")

    async def as_empty(self, request):
        return web.json_response({**completion(), "choices": []})

    async def as_uncounted(self, request):
        return web.json_response({**completion(), "usage": None})

    async def as_negative(self, request):
        return web.json_response(completion(tokens=-5))

    async def as_endless(self, request):
        return web.Response(body=b" " * 100_000)

    async def as_picky(self, request):
        return web.json_response({"error": {"message": "query too long"}}, status=400)

    async def as_locked(self, request):
        return web.json_response({"error": {"message": "who are you?"}}, status=401)

    async def as_gone(self, request):
        return web.json_response({"error": {"message": "no such model"}}, status=404)

    async def as_moved(self, request):
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/v1"})


@pytest.fixture
async def endpoint():
    served = Endpoint()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", served.complete)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield served
    served.release.set()
    await runner.cleanup()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(router_module, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(router_module, "MOST_WAIT_SECONDS", 0.01)


@asynccontextmanager
async def opened(url, *names, **options):
    models = [{"name": name, "url": url, "price": 2.0, "description": f"a {name} one"} for name in names]
    tool = Router(models, **options).spawn(ToolContext())
    await tool.open()
    try:
        yield tool
    finally:
        await tool.close()


async def ask(tool, model="good", query="Capital of France?"):
    return await tool.invoke({"model": model, "query": query})


# ---- good answers -----------------------------------------------------------------------------


async def test_an_answer_and_what_it_cost(endpoint):
    async with opened(endpoint.url, "good", instruction="Be brief.", max_tokens=9) as tool:
        seen = await ask(tool)
    assert seen.text == "Paris." and not seen.error
    assert seen.metadata == {"model": "good", "completion_tokens": 7, "cost": 14.0}
    [(body, headers)] = endpoint.requests
    assert body == {
        "model": "good",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Capital of France?"},
        ],
        "temperature": 0.0,
        "max_tokens": 9,
    }
    assert "Authorization" not in headers


async def test_a_model_that_says_nothing(endpoint):
    async with opened(endpoint.url, "silent") as tool:
        seen = await ask(tool, "silent")
    assert seen.text == "(no text)" and seen.metadata["cost"] == 0


async def test_the_key_comes_from_the_environment_and_goes_to_its_model_alone(endpoint, monkeypatch):
    monkeypatch.setenv("BIG_KEY", "s3cret")
    tool = Router(
        [
            {"name": "big", "model": "good", "url": endpoint.url, "price": 1, "key_env": "BIG_KEY"},
            {"name": "good", "url": endpoint.url + "/", "price": 1},
        ]
    )
    assert "s3cret" not in json.dumps(tool.schema)
    await tool.open()
    await ask(tool, "big")
    await ask(tool, "good")
    await tool.close()
    assert [headers.get("Authorization") for _, headers in endpoint.requests] == ["Bearer s3cret", None]
    assert [body["model"] for body, _ in endpoint.requests] == ["good", "good"]


def test_the_policy_is_told_names_prices_and_descriptions():
    tool = Router([{"name": "a/b", "url": "http://h/v1", "price": 0.25, "description": "knows all"}])
    function = tool.schema["function"]
    assert "a/b (0.25 per million tokens): knows all" in function["description"]
    assert function["parameters"]["properties"]["model"]["enum"] == ["a/b"]
    assert function["parameters"]["required"] == ["model", "query"]


async def test_connections_are_bounded_and_shared_by_episodes(endpoint):
    tool = Router([{"name": "yielding", "url": endpoint.url, "price": 1}], connections=3)
    episodes = [tool.spawn(ToolContext()) for _ in range(20)]
    for one in episodes:
        await one.open()
    seen = await asyncio.gather(*(ask(one, "yielding") for one in episodes))
    assert {one.text for one in seen} == {"Paris."} and len(endpoint.requests) == 20
    assert 1 <= endpoint.most_busy <= 3
    for one in episodes:
        await one.close()
    await episodes[0].open()  # and again, when all have gone
    assert (await ask(episodes[0], "yielding")).text == "Paris."
    await episodes[0].close()


# ---- what the model did wrong -----------------------------------------------------------------


async def test_an_unknown_name_is_answered_with_the_names(endpoint):
    async with opened(endpoint.url, "good", "slow") as tool:
        with pytest.raises(ToolError, match="no model 'best'. There are: good, slow"):
            await ask(tool, "best")
        with pytest.raises(ToolError, match="empty"):
            await ask(tool, "good", " ")
    assert not endpoint.requests


async def test_a_query_that_is_refused_is_told(endpoint):
    async with opened(endpoint.url, "picky") as tool:
        with pytest.raises(ToolError, match="'picky' does not take this query.*query too long"):
            await ask(tool, "picky")
    assert len(endpoint.requests) == 1


# ---- what machines do -------------------------------------------------------------------------


async def test_a_call_that_fails_on_the_way_is_tried_again(endpoint):
    async with opened(endpoint.url, "flaky", retries=2) as tool:
        assert (await ask(tool, "flaky")).text == "Paris."
    assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dying", "payload|Payload|disconnected|reset"),
        ("broken", "status 503: no GPU left"),
        ("garbled", "no chat completion"),
        ("deep", "no chat completion"),
        ("empty", "choices"),
        ("uncounted", "usage"),
        ("negative", r"usage\.completion_tokens"),
        ("endless", "more than 50000 bytes"),
    ],
)
async def test_an_endpoint_that_fails_is_an_infrastructure_error(endpoint, name, words):
    async with opened(endpoint.url, name, retries=1, most_bytes=50_000) as tool:
        with pytest.raises(InfrastructureError, match=rf"(?s)'{name}' \(http.*in 2 tries.*({words})"):
            await ask(tool, name)
    assert len(endpoint.requests) == 2


async def test_an_endpoint_that_hangs_is_an_infrastructure_error(endpoint):
    async with opened(endpoint.url, "slow", retries=1, seconds=0.1) as tool:
        with pytest.raises(InfrastructureError, match=r"no answer in 0\.1 s"):
            await ask(tool, "slow")
    assert len(endpoint.requests) == 2


async def test_an_endpoint_that_is_not_there_is_an_infrastructure_error():
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        async with opened(url, "good", retries=1) as tool:
            with pytest.raises(InfrastructureError, match="ClientConnectorError"):
                await ask(tool)


async def test_waiting_for_a_connection_is_bounded(endpoint):
    async with opened(endpoint.url, "slow", connections=1, queue_seconds=0.05) as tool:
        first = asyncio.ensure_future(ask(tool, "slow"))
        await endpoint.arrived.wait()
        with pytest.raises(InfrastructureError, match=r"All 1 connections .*'slow'.* 0\.05 s"):
            await ask(tool, "slow")
        endpoint.release.set()
        assert (await first).text == "Paris."


async def test_a_call_that_is_given_up_frees_its_connection(endpoint):
    async with opened(endpoint.url, "slow", connections=1) as tool:
        given_up = asyncio.ensure_future(ask(tool, "slow"))
        await endpoint.arrived.wait()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        endpoint.release.set()
        assert (await ask(tool, "slow")).text == "Paris."


def test_the_limit_of_a_call_leaves_room_for_all_tries():
    tool = Router([{"name": "a", "url": "http://h", "price": 1}], seconds=10, retries=2, queue_seconds=20)
    assert tool.seconds is not None and tool.seconds > 3 * 10 + 20 + 2 * router_module.MOST_WAIT_SECONDS


# ---- what the user has to mend ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("locked", "refuses a call without a key; set key_env.*who are you"),
        ("gone", "not at that URL, or not under the name 'gone'.*404.*no such model"),
        ("moved", "not at that URL.*307"),
    ],
)
async def test_an_endpoint_that_is_set_wrongly_stops_the_run(endpoint, name, words):
    async with opened(endpoint.url, name) as tool:
        with pytest.raises(ConfigError, match=words):
            await ask(tool, name)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([], "needs models"),
        ("big", "needs models"),
        ([{"name": "a", "price": 1}], "Model 1 of the router: url: Field required"),
        (
            [{"name": "a", "url": "http://h", "price": 1, "cost": 2}],
            "cost: Extra inputs.*Its fields: name, url",
        ),
        ([{"name": "a", "url": "h:8000", "price": 1}], "url"),
        ([{"name": "a: b", "url": "http://h", "price": 1}], "name"),
        ([{"name": "a", "url": "http://h", "price": -1}], "price"),
        ([{"name": "a", "url": "http://h", "price": float("nan")}], "price"),
        ([{"name": "a", "url": "http://h", "price": 1}] * 2, "Several models of the router are called a"),
        ([{"name": "a", "url": "http://h", "price": 1, "key_env": "NO_SUCH_KEY"}], r"\$NO_SUCH_KEY"),
    ],
)
def test_models_that_do_not_fit(models, words):
    with pytest.raises(ConfigError, match=words):
        find_tool("agentrl.tools.router:Router", {"models": models})


@pytest.mark.parametrize("option", [{"retries": -1}, {"connections": 0}, {"seconds": 0}])
def test_limits_that_do_not_fit(option):
    with pytest.raises(ConfigError, match="above 0"):
        Router([{"name": "a", "url": "http://h", "price": 1}], **option)

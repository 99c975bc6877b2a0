"""The tool server's web application: our own protocol, and what every protocol shares."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from yarl import URL

from agentrl.errors import AgentRLError, NotFound, ServerBusy, SessionLost, ToolError, UsageError
from agentrl.serve.host import ToolHost
from agentrl.serve.metrics import RequestMetrics
from agentrl.serve.openapi import described, document
from agentrl.serve.wire import Answer, Call, OpenSession, Problem, Refusal, to_problem

logger = logging.getLogger(__name__)
BODY_BYTES = 64 << 20
MODEL = TypeVar("MODEL", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_REFUSALS: dict[int, type[web.HTTPError]] = {
    401: web.HTTPUnauthorized,
    403: web.HTTPForbidden,
    404: web.HTTPNotFound,
    422: web.HTTPUnprocessableEntity,
    500: web.HTTPInternalServerError,
}
_STATUS: tuple[tuple[type[AgentRLError], int], ...] = (
    (SessionLost, 410),
    (NotFound, 404),
    (ToolError, 422),
    (UsageError, 500),
    (AgentRLError, 500),
)


def make_app(
    host: ToolHost,
    *,
    token: str | None = None,
    metrics: RequestMetrics | None = None,
    servers: Callable[[], list[str]] = list,
    page: Callable[[], Awaitable[bytes]] | None = None,
    protocols: Iterable[web.RouteDef] = (),
) -> web.Application:
    """The application around a host.

    Args:
        host: answers the calls.
        token: what a caller must show as ``Authorization: Bearer …``; ``None`` lets everybody in.
        metrics: counts requests that are refused, and is what ``/metrics`` shows.
        servers: addresses that clients should use directly; none: this one.
        page: what ``/metrics`` shows instead, in Prometheus's text form.
        protocols: further routes.
    """
    metrics = metrics or RequestMetrics()
    app = web.Application(
        middlewares=[_timed, _guard(token), _explained(metrics)], client_max_size=BODY_BYTES
    )
    description: dict[str, Any] = {}
    ours = Ours(host, page or _page_of(metrics), servers, description)
    app.add_routes([*ours.routes(), *protocols])
    description.update(document(app.router.routes()))
    return app


def _page_of(metrics: RequestMetrics) -> Callable[[], Awaitable[bytes]]:
    async def page() -> bytes:
        return metrics.page()

    return page


class Ours:
    """Our own protocol; see docs/serve.md."""

    def __init__(
        self,
        host: ToolHost,
        page: Callable[[], Awaitable[bytes]],
        servers: Callable[[], list[str]],
        description: dict[str, Any],
    ) -> None:
        self._host, self._page, self._servers, self._description = host, page, servers, description

    def routes(self) -> list[web.RouteDef]:
        """What is answered where."""
        return [
            web.post("/v1/calls", self.loose_call),
            web.post("/v1/sessions/{session}", self.open),
            web.delete("/v1/sessions/{session}", self.end),
            web.post("/v1/sessions/{session}/calls", self.session_call),
            web.get("/v1/tools", self.tools),
            web.get("/v1/servers", self.servers),
            web.get("/health", self.health),
            web.get("/ready", self.ready),
            web.get("/metrics", self.metrics),
            web.get("/openapi.json", self.openapi),
        ]

    @described(takes=OpenSession)
    async def open(self, request: web.Request) -> web.Response:
        """Begin a session. Done again, it changes nothing."""
        wanted = await body(request, OpenSession)
        await self._host.open(request.match_info["session"], task=wanted.to_task(), tools=wanted.tools)
        return web.json_response({})

    async def end(self, request: web.Request) -> web.Response:
        """End a session: stop what it runs and free what it holds."""
        await self._host.end(request.match_info["session"])
        return web.json_response({})

    @described(takes=Call, gives=Answer)
    async def session_call(self, request: web.Request) -> web.Response:
        """Make a call in a session, at most once for each id."""
        return await self._call(request, request.match_info["session"])

    @described(takes=Call, gives=Answer)
    async def loose_call(self, request: web.Request) -> web.Response:
        """Make a call that belongs to no session."""
        return await self._call(request, "")

    async def _call(self, request: web.Request, session: str) -> web.Response:
        wanted = await body(request, Call)
        answer = await self._host.call(wanted.to_request(session))
        return web.Response(text=Answer.of(answer).model_dump_json(), content_type="application/json")

    async def tools(self, request: web.Request) -> web.Response:
        """The tools on offer, in the form of OpenAI's function calling."""
        return web.json_response({"tools": await self._host.schemas()})

    async def servers(self, request: web.Request) -> web.Response:
        """Addresses to talk to directly; empty: this one."""
        return web.json_response({"servers": [_reachable(url, request) for url in self._servers()]})

    async def health(self, request: web.Request) -> web.Response:
        """Whether the process is alive."""
        return web.json_response({"status": "healthy"})

    async def ready(self, request: web.Request) -> web.Response:
        """Whether calls are taken."""
        self._host.check_ready()
        return web.json_response({"status": "ready"})

    async def metrics(self, request: web.Request) -> web.Response:
        """Counters, in Prometheus's text form."""
        return web.Response(body=await self._page(), content_type="text/plain", charset="utf-8")

    async def openapi(self, request: web.Request) -> web.Response:
        """This description."""
        return web.json_response(self._description)


def _reachable(url: str, request: web.Request) -> str:
    """A server's address; of one that listens on all of this machine's, the one that the caller used."""
    parsed = URL(url)
    if parsed.host in ("0.0.0.0", "::") and request.url.host:
        parsed = parsed.with_host(request.url.host)
    return str(parsed)


async def body(request: web.Request, model: type[MODEL]) -> MODEL:
    """A request's JSON body.

    Raises:
        web.HTTPUnprocessableEntity: it is not of that form; the answer says where and why.
    """
    try:
        return model.model_validate_json(await request.read() or b"{}")
    except ValidationError as problem:
        words = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in problem.errors())
        raise refused(422, "BadRequest", words) from None


def refused(status: int, kind: str, message: str) -> web.HTTPException:
    """An exception that is answered in the one form that all errors have."""
    text = Refusal(error=Problem(kind=kind, message=message)).model_dump_json(exclude_defaults=True)
    return _REFUSALS[status](text=text, content_type="application/json")


@web.middleware
async def _timed(request: web.Request, handler: Handler) -> web.StreamResponse:
    began = time.perf_counter()

    def stamp(response: web.StreamResponse) -> None:
        if not response.prepared:
            response.headers["X-Process-Time"] = f"{time.perf_counter() - began:.6f}"

    try:
        response = await handler(request)
    except web.HTTPException as problem:
        stamp(problem)
        raise
    stamp(response)
    return response


def _guard(token: str | None) -> Any:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token is not None and request.path != "/health":
            shown = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(shown, f"Bearer {token}".encode()):
                raise refused(401, "Unauthorized", "Send the server's token: Authorization: Bearer TOKEN.")
        return await handler(request)

    return guard


def _explained(metrics: RequestMetrics) -> Any:
    """Errors as JSON that says what happened; none of them as an observation."""

    @web.middleware
    async def explained(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except AgentRLError as problem:
            metrics.refused(type(problem).__name__)
            return _answer(problem)
        except web.HTTPException as problem:
            metrics.refused(problem.reason)
            if problem.status < 400 or problem.content_type == "application/json":
                raise
            refusal = Refusal(error=Problem(kind="BadRequest", message=problem.text or problem.reason))
            problem.text, problem.content_type = (
                refusal.model_dump_json(exclude_defaults=True),
                "application/json",
            )
            raise
        except Exception as problem:
            logger.exception("a request failed: %s %s", request.method, request.path)
            metrics.refused("bug")
            words = f"{type(problem).__name__}; the server's log says more"
            raise refused(500, "InternalError", words) from None

    return explained


def _answer(problem: AgentRLError) -> web.Response:
    headers = {}
    if isinstance(problem, ServerBusy):
        status = 429 if problem.queue_full else 503
        headers["Retry-After"] = str(max(1, round(problem.retry_after)))
    else:
        status = next(status for kind, status in _STATUS if isinstance(problem, kind))
    text = Refusal(error=to_problem(problem)).model_dump_json(exclude_defaults=True)
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)

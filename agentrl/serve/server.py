"""One server process: tools, a sandbox, an address; until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import yaml
from aiohttp import web

from agentrl.errors import AgentRLError, ConfigError, SandboxUnavailable, UsageError
from agentrl.registry import TOOLS, find_tool, find_tools, names
from agentrl.serve.admission import Admission
from agentrl.serve.app import make_app
from agentrl.serve.host import ToolHost
from agentrl.serve.local import LocalHost, SessionLimits
from agentrl.serve.protocols.sandbox import routes as sandbox_routes
from agentrl.serve.sandboxes import SandboxSessions
from agentrl.tool import Tool

logger = logging.getLogger(__name__)
SWEEP_SECONDS = 1.0
_WITH_OPTIONS = re.compile(r"(?P<name>[^{]+)(?P<options>\{.*\})?", re.DOTALL)


class Sweeps(Protocol):
    """What ends sessions whose time is over when it is swept."""

    async def sweep(self) -> int:
        """End them; how many those were."""


@dataclass(frozen=True)
class ServeSettings:
    """How a server is run.

    Args:
        tools: what is on offer: names, dotted paths or files, each with options in braces if need be, as in
            ``code{seconds: 5}``; empty for all that are installed.
        address, port: where it listens; port 0 takes a free one.
        token: what callers must show; needed for any address but loopback.
        sandbox: name of the backend, with options in braces if need be, as in ``docker{cpus: 1.0}``.
        limits: of sessions.
        most_at_once: calls that may ever run at once.
        queue: calls that may wait.
        call_seconds: the longest a tool may take that names no time of its own.
        drain_seconds: how long running calls may go on when the server is told to end.
    """

    tools: Sequence[str] = ()
    address: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    sandbox: str = "auto"
    limits: SessionLimits = field(default_factory=SessionLimits)
    most_at_once: int = 512
    queue: int = 4096
    call_seconds: float = 60.0
    drain_seconds: float = 30.0


def check_address(address: str, token: str | None) -> None:
    """Refuse to offer tools to a network without a token.

    Raises:
        ConfigError: the address is not this machine's own, and there is no token.
    """
    try:
        own = ipaddress.ip_address(address).is_loopback
    except ValueError:
        own = address == "localhost"
    if not own and not token:
        raise ConfigError(
            f"On address {address!r} anybody who reaches this machine could run code. Give a token with "
            "--token or in AGENTRL_TOKEN, or listen on 127.0.0.1."
        )


def make_tools(words: Sequence[str]) -> list[Tool]:
    """The tools that words name; without any, all that are installed and can be made.

    Raises:
        NotFound, ConfigError: a word names no tool, or options that it does not take.
    """
    if not words:
        return [tool for name in names(TOOLS) if (tool := _made_or_none(name)) is not None]
    return [tool for word in words for tool in find_tools(*with_options(word, "tool"))]


def with_options(word: str, what: str) -> tuple[str, dict[str, Any]]:
    """A name, and the options in braces behind it.

    Raises:
        ConfigError: the options are no YAML mapping.
    """
    match = _WITH_OPTIONS.fullmatch(word)
    if match is None:
        raise ConfigError(f"{word!r} names no {what}; write NAME or NAME{{option: value}}.")
    try:
        options = yaml.safe_load(match["options"]) if match["options"] else {}
    except yaml.YAMLError as problem:
        raise ConfigError(f"The options of {word!r} are not valid YAML: {problem}") from None
    return match["name"], options


def _made_or_none(name: str) -> Tool | None:
    """An installed tool; ``None`` for one that needs options to be made."""
    try:
        return find_tool(name)
    except UsageError as problem:
        logger.info("tool %s is left out: %s", name, problem)
        return None


def make_host(settings: ServeSettings) -> LocalHost:
    """Tools in this process. To be called in the event loop that will run them.

    Raises:
        UsageError: a tool cannot be made, or a sandbox that was asked for by name is not to be had.
    """
    from agentrl.sandbox import open_sandbox

    tools = make_tools(settings.tools)
    backend, options = with_options(settings.sandbox, "sandbox backend")
    try:
        sandbox = open_sandbox(backend, **options)
    except SandboxUnavailable as problem:
        if backend != "auto":
            raise
        logger.warning("tools that run code will fail: %s", problem)
        sandbox = None
    admission = Admission(most=settings.most_at_once, queue=settings.queue)
    return LocalHost(
        tools, sandbox, limits=settings.limits, admission=admission, call_seconds=settings.call_seconds
    )


def protocol_routes(host: ToolHost) -> list[web.RouteDef]:
    """The routes of other people's protocols."""
    from agentrl.serve.protocols import PROTOCOLS

    return [route for make in PROTOCOLS.values() for route in make(host)]


def sandbox_sessions(host: LocalHost, limits: SessionLimits) -> SandboxSessions | None:
    """The host's sandbox, offered to callers elsewhere; ``None`` if it has none."""
    if host.sandbox is None:
        return None
    return SandboxSessions(host.sandbox, limits=limits, admission=host.admission)


@asynccontextmanager
async def listening(app: web.Application, address: str, port: int) -> AsyncIterator[str]:
    """The application on an address; yields its URL.

    Raises:
        ConfigError: the address cannot be had.
    """
    # Handlers of callers that went away are cancelled, and with them the work.
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=2.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, address, port, backlog=4096).start()
        except OSError as problem:
            raise ConfigError(f"Cannot listen on {address} port {port}: {problem.strerror}.") from None
        bound = runner.addresses[0]
        yield f"http://[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"http://{bound[0]}:{bound[1]}"
    finally:
        await runner.cleanup()


async def serve(settings: ServeSettings, announce: Callable[[str, list[str]], None]) -> None:
    """Serve until SIGTERM or SIGINT, then let running calls end.

    Args:
        announce: told the address and the tools' names once calls are taken.

    Raises:
        UsageError: the settings do not fit.
    """
    await serve_until(ending_signals(), settings, announce)


def ending_signals() -> asyncio.Event:
    """What SIGTERM and SIGINT set from now on, instead of ending the process."""
    told_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_end.set)
    return told_to_end


async def serve_until(
    told_to_end: asyncio.Event, settings: ServeSettings, announce: Callable[[str, list[str]], None]
) -> None:
    """As :func:`serve`, until an event is set."""
    check_address(settings.address, settings.token)
    async with make_host(settings) as host:
        sandboxes = sandbox_sessions(host, settings.limits)
        routes = [*protocol_routes(host), *(() if sandboxes is None else sandbox_routes(sandboxes))]
        app = make_app(host, token=settings.token, metrics=host.metrics, protocols=routes)
        async with listening(app, settings.address, settings.port) as url, sweeping(host):
            announce(url, [schema["function"]["name"] for schema in await host.schemas()])
            await told_to_end.wait()
            logger.info("ending: %d sessions, %d calls", host.sessions, host.admission.running)
            await asyncio.gather(
                *(each.drain(settings.drain_seconds) for each in (host, sandboxes) if each is not None)
            )
        if sandboxes is not None:
            await sandboxes.close()


@asynccontextmanager
async def sweeping(host: Sweeps) -> AsyncIterator[None]:
    """Meanwhile, sweep every second."""

    async def sweep() -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await host.sweep()
            except AgentRLError as problem:  # one session that would not end must not keep the others
                logger.warning("a session could not be ended: %s", problem)

    task = asyncio.ensure_future(sweep())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

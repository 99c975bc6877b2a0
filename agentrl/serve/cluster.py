"""Workers of a front as actors of a Ray cluster, spread over its nodes."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from dataclasses import replace
from typing import Any, Self

from agentrl.errors import AgentRLError, ConfigError, InfrastructureError
from agentrl.serve.front import Worker
from agentrl.serve.logs import LogForm, set_up
from agentrl.serve.server import ServeSettings, serve_until
from agentrl.serve.wire import to_problem
from agentrl.serve.workers import START_SECONDS, Started

logger = logging.getLogger(__name__)

NAMESPACE = "agentrl"
REGISTRY = "agentrl-serve"
"""Name of the actor that knows where the workers are."""
REGISTRY_SECONDS = 10.0
"""For the registry to answer."""
CONNECT_SECONDS = 10.0


class Serving:
    """The actor: one server, in an event loop of its own."""

    def __init__(self) -> None:
        self._told_to_end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, settings: ServeSettings, log: LogForm) -> str:
        """Begin to serve on this node's address; what is said first, as JSON."""
        import ray

        set_up(log)
        said: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        here = replace(settings, address=ray.util.get_node_ip_address(), port=0)
        serving = serve_until(self._told_to_end, here, lambda url, _: said.set_result(Started(url=url)))
        self._task = asyncio.ensure_future(serving)
        waiting: list[asyncio.Future[Any]] = [said, self._task]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if said.done():
            return said.result().model_dump_json()
        try:
            await self._task
        except AgentRLError as problem:
            return Started(problem=to_problem(problem)).model_dump_json()
        raise RuntimeError("the server ended before it began")

    async def ended(self) -> None:
        """Wait until it does not serve any more."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def end(self) -> None:
        """Let calls end and close what there is."""
        self._told_to_end.set()
        await self.ended()


class Registry:
    """The actor that tells others on the cluster where the workers are."""

    def __init__(self) -> None:
        self._urls: list[str] = []

    def set(self, urls: list[str]) -> None:
        """These are all."""
        self._urls = urls

    def get(self) -> list[str]:
        """The workers that live."""
        return self._urls


class ActorWorker(Worker):
    """An actor on some node."""

    def __init__(self, url: str, actor: Any) -> None:
        super().__init__(url)
        self._actor = actor

    async def ended(self) -> str:
        import ray

        try:
            await self._actor.ended.remote()
        except ray.exceptions.RayError as problem:
            return str(problem).splitlines()[0]
        return "its server ended"

    async def end(self, seconds: float) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            await asyncio.wait_for(self._actor.end.remote(), seconds)
        ray.kill(self._actor)


class Cluster:
    """A Ray cluster, from the process of a front. A context manager; connected until it is left.

    Args:
        settings: of every worker but for address and port, which are its node's.
        log: how workers log; Ray shows that on the front's standard error.
        address: of the cluster, as ``HOST:PORT``; that of ``RAY_ADDRESS``, or of this machine, by default.

    Raises:
        ConfigError: there is no cluster; or no token, and a node with another address than loopback; or
            another front is at work on the cluster.
    """

    def __init__(self, settings: ServeSettings, log: LogForm, address: str | None = None) -> None:
        import ray

        self._settings, self._log = settings, log
        try:
            if address is not None:
                _reach(address)
            ray.init(address or "auto", namespace=NAMESPACE, configure_logging=False)
        except (OSError, ValueError) as problem:
            raise ConfigError(
                f"There is no Ray cluster at {address or 'this machine'}: {problem} Start one with "
                "`ray start --head`, or give its address as HOST:PORT with --ray-address."
            ) from None
        try:
            self.nodes = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
            self._check_token()
            self._registry = self._make_registry()
        except BaseException:
            ray.shutdown()
            raise

    def _check_token(self) -> None:
        for address in self.nodes:
            if not self._settings.token and not ipaddress.ip_address(address).is_loopback:
                raise ConfigError(
                    f"Anybody who reaches the node {address} could run code there. Give a token with --token "
                    "or in AGENTRL_TOKEN."
                )

    def _make_registry(self) -> Any:
        """The registry, beside the front and gone with it."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"name": REGISTRY, "num_cpus": 0, "scheduling_strategy": here}
        try:
            return ray.remote(Registry).options(**options).remote()
        except ValueError:
            raise ConfigError("Another front is at work on this Ray cluster; end it first.") from None

    async def start(self) -> Worker:
        """Start a worker on some node, another one for each as far as there are."""
        import ray

        create = ray.remote(Serving).options(num_cpus=1, scheduling_strategy="SPREAD").remote
        actor = await asyncio.to_thread(create)
        try:
            words = await asyncio.wait_for(actor.start.remote(self._settings, self._log), START_SECONDS)
            return ActorWorker(Started.model_validate_json(words).address(), actor)
        except BaseException as problem:
            ray.kill(actor)
            if isinstance(problem, TimeoutError):
                raise InfrastructureError(
                    f"No worker took calls in {START_SECONDS:g} s; each needs a CPU that Ray counts as free."
                ) from None
            if isinstance(problem, ray.exceptions.RayError):
                raise InfrastructureError(f"A worker ended as it began: {problem}") from None
            raise

    async def register(self, urls: list[str]) -> None:
        """Let the registry know where the workers are."""
        import ray

        try:
            await asyncio.wait_for(self._registry.set.remote(urls), REGISTRY_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as problem:
            logger.warning("the registry of workers does not answer: %s", problem)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        ray.shutdown()


def _reach(address: str) -> None:
    """See whether anything listens at an address; Ray would wait for it for minutes.

    Raises:
        OSError, ValueError: nothing does, or it is none.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def registered(seconds: float = REGISTRY_SECONDS) -> list[str]:
    """Where the workers on this process's Ray cluster are, for those who know of no front.

    Args:
        seconds: the longest wait for the registry.

    Raises:
        ConfigError: no front is at work there.
    """
    import ray

    try:
        registry = ray.get_actor(REGISTRY, namespace=NAMESPACE)
        urls: list[str] = ray.get(registry.get.remote(), timeout=seconds)
    except (ValueError, ray.exceptions.RayError) as problem:
        raise ConfigError(f"No front with workers is on this Ray cluster: {problem}") from None
    return urls

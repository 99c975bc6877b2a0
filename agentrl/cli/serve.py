"""``agentrl serve``: tools over HTTP."""

from __future__ import annotations

import asyncio
import sys

from agentrl.cli.main import LogFormat
from agentrl.serve.cluster import Cluster
from agentrl.serve.front import serve_front
from agentrl.serve.logs import set_up
from agentrl.serve.server import ServeSettings, serve
from agentrl.serve.workers import starter


def run(settings: ServeSettings, log: LogFormat) -> int:
    """Serve in this process until told to end."""
    set_up(log.value)
    asyncio.run(serve(settings, _announce))
    return 0


def run_processes(settings: ServeSettings, log: LogFormat, workers: int) -> int:
    """Serve with worker processes until told to end."""
    set_up(log.value)
    asyncio.run(serve_front(settings, starter(settings, log.value), workers, _announce))
    return 0


def run_cluster(settings: ServeSettings, log: LogFormat, workers: int, address: str | None) -> int:
    """Serve with workers on a Ray cluster until told to end; 0 workers: one for each node."""
    set_up(log.value)
    with Cluster(settings, log.value, address) as cluster:
        count = workers or len(cluster.nodes)
        asyncio.run(serve_front(settings, cluster.start, count, _announce, cluster.register))
    return 0


def _announce(url: str, tools: list[str]) -> None:
    sys.stdout.write(f"agentrl serves {', '.join(tools)} at {url}\n")
    sys.stdout.flush()

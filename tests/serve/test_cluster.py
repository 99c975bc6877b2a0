"""A front over two Ray nodes, one of which is killed under load."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from front_support import appears, fronted, refusal, vanishes
from ray.cluster_utils import Cluster

from agentrl.errors import ServerBusy, SessionLost
from agentrl.serve.client import ToolClient
from agentrl.serve.cluster import NAMESPACE, registered
from agentrl.serve.host import CallRequest

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
NODE = {"num_cpus": 2, "object_store_memory": 80 << 20}
QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 10,
}
TOKEN = "secret"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """The first of two nodes; all is down in the end."""
    head = NODE | {"include_dashboard": False, "_system_config": QUICK_TO_NOTICE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        cluster.shutdown()


class Callers:
    """Sessions that are called without a pause."""

    def __init__(self, client: ToolClient) -> None:
        self._client, self._stop = client, asyncio.Event()
        self.lost: set[str] = set()
        self.answers: dict[str, list[int]] = {}

    async def keep_calling(self, name: str) -> None:
        """Call until told to stop, or until the session is lost. Any other error is the test's."""
        answers = self.answers[name] = []
        while not self._stop.is_set():
            try:
                answer = await self._client.call(CallRequest("slow", {}, name))
            except ServerBusy as busy:
                await asyncio.sleep(busy.retry_after)
            except SessionLost:
                self.lost.add(name)
                return
            else:
                answers.append(int(answer.observation.text.split()[1]))

    def stop(self) -> None:
        self._stop.set()


async def test_a_node_that_dies_costs_its_sessions_alone(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(**NODE)
    raylet = node.all_processes["raylet"][0].process.pid
    options = ("--ray", "--ray-address", cluster.address)
    async with fronted(tmp_path, *options, token=TOKEN) as front:
        assert len(await front.workers()) == 2
        client = ToolClient(front.url, token=TOKEN, patience=5, refresh_seconds=0)
        async with client:
            names = [f"s{number}" for number in range(24)]
            nodes, pids = {}, set()
            for name in names:
                await client.open(name)
                first = await client.call(CallRequest("slow", {}, name))
                pid = int(first.observation.text.split()[0])
                pids.add(pid)
                nodes[name] = psutil.Process(pid).ppid()
            assert len(set(nodes.values())) == 2 and raylet in nodes.values()
            on_node = {name for name in names if nodes[name] == raylet}

            callers = Callers(client)
            touched = tmp_path / "touched"
            stuck = {"touch": str(touched), "until": str(tmp_path / "never")}
            in_flight = min(on_node)
            waiting = asyncio.ensure_future(client.call(CallRequest("slow", stuck, in_flight)))
            await appears(touched)
            calling = [
                asyncio.ensure_future(callers.keep_calling(name)) for name in names if name != in_flight
            ]
            dead = client.home(in_flight)
            assert dead is not None
            await asyncio.to_thread(cluster.remove_node, node, allow_graceful=False)
            with pytest.raises(SessionLost):
                await waiting
            await front.workers_without(dead, 2)
            callers.stop()
            await asyncio.gather(*calling)

            assert callers.lost == on_node - {in_flight}
            for name in set(names) - on_node:
                assert callers.answers[name] == list(range(2, 2 + len(callers.answers[name])))
            fresh = set()
            while len(fresh) < 2:
                name = f"new{len(names)}"
                names.append(name)
                await client.open(name)
                fresh.add(int((await client.call(CallRequest("slow", {}, name))).observation.text.split()[0]))
            assert len(fresh - pids) == 1
            assert await asyncio.to_thread(on_registry, cluster.address) == await front.workers()
        front.process.terminate()
        assert await front.process.wait() == 0
    for pid in pids | fresh:
        await vanishes(pid)


def on_registry(address: str) -> list[str]:
    """What any process of the cluster is told."""
    ray.init(address, namespace=NAMESPACE, configure_logging=False, log_to_driver=False)
    try:
        return registered(seconds=30)
    finally:
        ray.shutdown()


async def test_beyond_loopback_there_must_be_a_token(cluster: Any) -> None:
    address = cluster.head_node.node_ip_address
    assert not address.startswith("127."), "this machine has no address but loopback"
    code, problem = await refusal("code", "--ray-address", cluster.address)
    assert code == 2 and address in problem and "--token" in problem

"""Ray nodes on one machine: each with its own processes, and its own network where that can be."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

MARK = "AGENTRL_TEST_NODE"
"""Set in every process of a node, to its name."""
HEAD_ADDRESS = "10.213.7.1"
START_SECONDS = 120.0

# Ray misses a machine that was cut off after 20 s, not after a minute.
IMPATIENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=START_SECONDS)


def networks() -> bool:
    """Whether this machine lets us make network namespaces, and links between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"agt{os.getpid()}"
    try:
        ip("netns", "add", name)
        try:
            ip("link", "add", f"{name}x", "type", "veth", "peer", "name", f"{name}y")
            ip("link", "del", f"{name}x")
        finally:
            ip("netns", "del", name)
    except subprocess.CalledProcessError:
        return False
    return True


class Link:
    """A network for a node, and a wire between it and the head's.

    Args:
        number: from 2 on; the last part of the node's address.
    """

    def __init__(self, number: int) -> None:
        self.address = f"{HEAD_ADDRESS[:-1]}{number}"
        self.name, self._wire = f"agtest{number}", f"agtwire{number}"
        ip("netns", "add", self.name)
        ip("link", "add", self._wire, "type", "veth", "peer", "name", "wire", "netns", self.name)
        ip("addr", "add", f"{HEAD_ADDRESS}/32", "peer", f"{self.address}/32", "dev", self._wire)
        ip("link", "set", self._wire, "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/32", "peer", f"{HEAD_ADDRESS}/32", "dev", "wire")
        for device in ("wire", "lo"):
            ip("-n", self.name, "link", "set", device, "up")

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        ip("link", "set", self._wire, "down")

    def remove(self) -> None:
        ip("netns", "del", self.name)


class Node:
    """A Ray node with one pretended GPU.

    Args:
        name: which no other node of the test has.
        address: its own, unless it has a network of its own.
        head: the address of the head's Ray, or ``None`` for the head itself.
        link: its network; default: the machine's own.
    """

    def __init__(self, name: str, address: str, head: str | None = None, link: Link | None = None) -> None:
        self._mark, self._link = f"{name}-{os.getpid()}", link
        self._folder = Path(tempfile.mkdtemp(prefix="agr", dir="/tmp"))  # paths of sockets must be short
        own = link.address if link else address
        self.address = head or f"{own}:{free_port()}"
        inside = ["ip", "netns", "exec", link.name] if link else []
        where = (
            [f"--address={head}"] if head else ["--head", f"--port={self.address.rpartition(':')[2]}",
            f"--ray-client-server-port={free_port()}", "--include-dashboard=false"]
        )  # fmt: skip
        command = [
            *inside, sys.executable, "-m", "ray.scripts.scripts", "start", *where, f"--node-ip-address={own}",
            f"--temp-dir={self._folder}", "--num-gpus=1", "--num-cpus=8", "--object-store-memory=200000000",
            f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats",
        ]  # fmt: skip
        given = {
            **os.environ, **IMPATIENT, MARK: self._mark, "VLLM_HOST_IP": own,
            "TMPDIR": str(self._folder),  # engines leave locks and sockets there when they are killed
        }  # fmt: skip
        given.pop("PYTHONDONTWRITEBYTECODE", None)  # or each of its processes would compile everything anew
        done = subprocess.run(
            command, env=given,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_SECONDS,
        )  # fmt: skip
        if done.returncode != 0:
            self.remove()
        assert done.returncode == 0, done.stdout + done.stderr

    def processes(self) -> list[psutil.Process]:
        """All that runs on it."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def runs(self, title: str) -> bool:
        """Whether a process of this title runs on it."""
        return any(title in " ".join(process.cmdline()) for process in self.processes())

    def kill(self) -> None:
        """The machine is gone, with everything on it."""
        while left := self.processes():
            for process in left:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(left, timeout=5)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class Cluster:
    """A head, and nodes that join it, each behind a wire where this machine lets us lay some."""

    def __init__(self) -> None:
        self._wired, self._links = networks(), list[Link]()
        if self._wired:
            ip("addr", "replace", f"{HEAD_ADDRESS}/32", "dev", "lo")
        self._address = HEAD_ADDRESS if self._wired else "127.0.0.1"
        self.head = Node("head", self._address)
        self.nodes = [self.head]

    def join(self) -> None:
        """One more machine."""
        number = len(self.nodes) + 1
        link = Link(number) if self._wired else None
        if link is not None:
            self._links.append(link)
        self.nodes.append(Node(f"node{number}", self._address, self.head.address, link))

    def lose(self) -> None:
        """The newest machine goes without a word: it is cut off, or else killed."""
        if self._links:
            self._links[-1].cut()
        else:
            self.nodes[-1].kill()

    def remove(self) -> None:
        for node in self.nodes:
            node.remove()
        for link in self._links:
            link.remove()
        if self._wired:
            ip("addr", "del", f"{HEAD_ADDRESS}/32", "dev", "lo")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
        return port

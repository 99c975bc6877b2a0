"""What a container of a session is made with, and the daemon's calls for it, which block."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrl.errors import SandboxError, SandboxUnavailable

from .container_profile import profile
from .guest.container import ROOT
from .protocol import Limits

if TYPE_CHECKING:
    import docker

OWNER_LABEL = "agentrl.owner"
_AGENT = "import sys; sys.path.insert(0, '/opt/agentrl'); from guest.container import main; main()"
_COMMAND = ["/usr/bin/python3", "-I", "-c", _AGENT]
_NETWORK = "bridge"
_AGENT_MB = 32  # the agent's own memory, on top of what the session may use
_SPARE_PROCESSES = 8  # for the agent, which forks even if the guests have used up their own
_AGENT_FILES = 4096
_SHM_INODES = 1024
# a user per session: the kernel counts processes per user, over all containers
_FIRST_USER, _USERS = 1_000_000, 1 << 24


def create(
    client: docker.DockerClient, name: str, limits: Limits, *, image: str, runtime: str | None, cpus: float
) -> None:
    """Make a container that is not started yet.

    Raises SandboxUnavailable if its image is missing, SandboxError if the daemon refuses or is gone.
    """
    from docker.errors import DockerException, ImageNotFound

    api = client.api
    user = _FIRST_USER + secrets.randbelow(_USERS)
    options: dict[str, Any] = {"runtime": runtime} if runtime else {}
    host = api.create_host_config(
        auto_remove=True,
        network_mode=_NETWORK if limits.network else "none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges", f"seccomp={profile()}"],
        pids_limit=limits.processes + _SPARE_PROCESSES,
        mem_limit=(limits.memory_mb + _AGENT_MB) << 20,
        memswap_limit=(limits.memory_mb + _AGENT_MB) << 20,
        nano_cpus=int(cpus * 1e9),
        tmpfs={
            # three inodes go to its root and the folders in it
            ROOT: f"rw,exec,nosuid,nodev,size={limits.disk_mb}m,nr_inodes={limits.inodes + 3},"
            f"mode=0755,uid={user},gid={user}",
            "/dev/shm": f"rw,exec,nosuid,nodev,size={limits.disk_mb}m,nr_inodes={_SHM_INODES},mode=1777",
        },
        ulimits=[
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "nofile", "Soft": _AGENT_FILES, "Hard": _AGENT_FILES},
        ],
        log_config={"Type": "none", "Config": {}},
        ipc_mode="none",
        init=False,
        **options,
    )
    config = api.create_container_config(
        image,
        _COMMAND,
        hostname="sandbox",
        user=f"{user}:{user}",
        detach=False,
        stdin_open=True,
        labels={OWNER_LABEL: owner()},
        host_config=host,
    )
    config |= {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "StdinOnce": True}
    try:
        api.create_container_from_config(config, name)
    except ImageNotFound as error:
        raise SandboxUnavailable(missing_image(image)) from error
    except (DockerException, OSError) as error:
        raise SandboxError(f"the Docker daemon made no container for a session: {error}") from error


def has_network(client: docker.DockerClient) -> bool:
    """Whether the daemon has the network that a session with ``network=True`` gets.

    Without it Docker makes the container all the same, with a loopback alone. Raises SandboxError if the
    daemon does not answer.
    """
    from docker.errors import DockerException

    try:
        return any(network["Name"] == _NETWORK for network in client.api.networks(names=[_NETWORK]))
    except (DockerException, OSError) as error:
        raise SandboxError(f"the Docker daemon does not answer: {error}") from error


def missing_image(image: str) -> str:
    """What to say when the daemon has no such image."""
    return f"the Docker daemon has no image {image}. Build it: agentrl sandbox image"


def attach(client: docker.DockerClient, name: str) -> socket.socket:
    """The raw standard streams of a container; then start it, so that nothing it says is missed."""
    from docker.errors import DockerException

    try:
        stream = client.api.attach_socket(name, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        sock = socket.socket(fileno=os.dup(stream.fileno()))
        stream._response.close()
        stream.close()
        try:
            client.api.start(name)
        except BaseException:
            sock.close()
            raise
    except (DockerException, OSError) as error:
        raise SandboxError(f"the container of a session did not start: {error}") from error
    return sock


def remove(client: docker.DockerClient, name: str) -> None:
    """Kill a container and wait until it is gone; it is no error if it is already.

    Raises SandboxError if the daemon does not answer or cannot do it.
    """
    from docker.errors import APIError, DockerException, NotFound

    try:
        try:
            client.api.remove_container(name, force=True, v=True)
        except APIError as error:
            if error.status_code != 409:  # its removal goes on already
                raise
            client.api.wait(name, condition="removed")
    except NotFound:
        return
    except (DockerException, OSError) as error:
        raise SandboxError(
            f"container {name} could not be removed: {error}. The next sandbox opened on this machine tries "
            "again once this process has ended."
        ) from error


def sweep(client: docker.DockerClient) -> None:
    """Remove the containers of processes of this machine that have died without doing so.

    Raises SandboxError if the daemon does not answer.
    """
    from docker.errors import DockerException

    try:
        labelled = client.api.containers(all=True, filters={"label": OWNER_LABEL})
    except (DockerException, OSError) as error:
        raise SandboxError(f"the Docker daemon does not answer: {error}") from error
    for found in labelled:
        if _orphaned(found["Labels"][OWNER_LABEL]):
            remove(client, found["Id"])


def owner() -> str:
    """This process, so that it can be told later whether it still lives."""
    return f"{_machine()}/{os.getpid()}/{_started(os.getpid())}"


def _orphaned(label: str) -> bool:
    machine, pid, started = label.rsplit("/", 2)
    return machine == _machine() and _started(int(pid)) != started


def _machine() -> str:
    """This boot of this machine, and the pid namespace that our pid counts in."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""

"""Reaching the Docker daemon that the environment names (DOCKER_HOST, or the usual socket)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentrl.errors import SandboxUnavailable

if TYPE_CHECKING:
    import docker

_CALL_SECONDS = 60
_CONNECTIONS = 32


def connect(seconds: int = _CALL_SECONDS) -> docker.DockerClient:
    """A client of a daemon that answers; the caller closes it.

    Raises SandboxUnavailable: the SDK is missing, or no daemon answers; says what to do about it.
    """
    try:
        import docker
    except ModuleNotFoundError:
        raise SandboxUnavailable(
            "the Docker SDK for Python is not installed: pip install 'agentrl[docker]'."
        ) from None
    try:
        client = docker.from_env(timeout=seconds, max_pool_size=_CONNECTIONS)
    except (docker.errors.DockerException, OSError, ValueError) as error:
        raise _no_daemon(error) from error
    try:
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        client.close()
        raise _no_daemon(error) from error
    return client


def _no_daemon(error: Exception) -> SandboxUnavailable:
    return SandboxUnavailable(
        f"no Docker daemon answers ({str(error)[:300]}). Install it (apt-get install docker.io), start it "
        "(systemctl start docker, or dockerd & as root), and let this user reach its socket; a daemon "
        "elsewhere is named by DOCKER_HOST."
    )

"""The docker backend: a hardened container per session, with an agent as its first process."""

from __future__ import annotations

import asyncio
import platform
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from agentrl.errors import ConfigError, SandboxError, SandboxUnavailable, SessionLost

from . import container_daemon
from .container_session import ContainerSession
from .docker_client import connect
from .image import image_name
from .protocol import DEFAULT_LIMITS, Availability, Limits, Sandbox

if TYPE_CHECKING:
    import docker

_ISOLATES = (
    "files: a read-only image; capped private /workspace, /tmp and /dev/shm; nothing of the host is mounted",
    "network: none but a loopback, unless asked for",
    "processes, IPC and host name: a container per session, a user per session",
    "kernel: no capabilities, no_new_privs, a seccomp allowlist of system calls",
    "memory, processes and CPU: a control group per session",
)
_WEAKER = (
    "disk_mb and inodes hold for /workspace and /tmp together; /dev/shm has as many MiB of its own, "
    "which memory_mb bounds.",
)
_WAIT_SECONDS = 60.0
_PROBE_SECONDS = 10


class DockerSandbox(Sandbox):
    """Sessions in containers of the daemon that DOCKER_HOST names, or of this machine's.

    Args:
        image: what sessions run in; by default the one that `agentrl.sandbox.image` builds.
        runtime: the daemon's name of an OCI runtime, such as ``runsc`` for gVisor; None is its default.
        cpus: processors that a session may use at a time.
        max_sessions: how many are open at once; `create` waits up to a minute for a free place.
    """

    name = "docker"
    forks: Literal["memory", "files", "none"] = "files"

    def __init__(
        self,
        *,
        image: str | None = None,
        runtime: str | None = None,
        cpus: float = 1.0,
        max_sessions: int = 32,
    ) -> None:
        if max_sessions < 1:
            raise ConfigError(f"max_sessions must be at least 1, not {max_sessions}")
        if cpus <= 0:
            raise ConfigError(f"cpus must be more than 0, not {cpus}")
        self._image, self._runtime, self._cpus = image or image_name(), runtime, cpus
        self._max_sessions, self._places = max_sessions, asyncio.Semaphore(max_sessions)
        self._opening = asyncio.Lock()
        self._client: docker.DockerClient | None = None
        self._sessions: set[ContainerSession] = set()
        self._closed = False

    @classmethod
    def availability(cls) -> Availability:
        try:
            missing = _missing(image_name(), None)
        except SandboxUnavailable as error:
            missing = str(error)
        return Availability(False, missing) if missing else Availability(True, "", _ISOLATES, _WEAKER)

    async def create(
        self, limits: Limits = DEFAULT_LIMITS, *, preload: Sequence[str] = ()
    ) -> ContainerSession:
        limits.check()
        client = await self._open()
        if limits.network and not await asyncio.to_thread(container_daemon.has_network, client):
            raise SandboxUnavailable(
                "the Docker daemon has no bridge network to give a session (it was started with "
                "--bridge=none). Use network=False, or start it with a bridge."
            )
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise SandboxError(
                f"no session ended in {_WAIT_SECONDS:.0f} s, and {self._max_sessions} are open. "
                "Close sessions, or raise max_sessions."
            ) from None

        async def copy(files: bytes) -> ContainerSession:
            fork = await self.create(limits, preload=preload)
            try:
                await fork.unpack(files)
            except BaseException:
                await fork.close()
                raise
            return fork

        session = ContainerSession(f"agentrl-{uuid.uuid4().hex[:16]}", limits, client, self._forget, copy)
        self._sessions.add(session)  # it holds a place until it is forgotten
        try:
            await session.start(preload, image=self._image, runtime=self._runtime, cpus=self._cpus)
        except BaseException:
            await session.close()
            raise
        return session

    def _forget(self, session: ContainerSession) -> None:
        if session in self._sessions:
            self._sessions.discard(session)
            self._places.release()

    async def _open(self) -> docker.DockerClient:
        async with self._opening:
            if self._closed:
                raise SessionLost("this sandbox is closed: open another")
            if self._client is None:
                missing = await asyncio.to_thread(_missing, self._image, self._runtime)
                if missing:
                    raise SandboxUnavailable(missing)
                client = await asyncio.to_thread(connect)
                try:
                    await asyncio.to_thread(container_daemon.sweep, client)
                except BaseException:
                    client.close()
                    raise
                self._client = client
            return self._client

    async def close(self) -> None:
        async with self._opening:
            self._closed = True
            await asyncio.gather(*(session.close() for session in list(self._sessions)))
            if self._client is not None:
                self._client.close()
                self._client = None


def _missing(image: str, runtime: str | None) -> str:
    """What the daemon lacks; raises SandboxUnavailable if there is none."""
    client = connect(_PROBE_SECONDS)
    from docker.errors import DockerException

    try:
        info = client.info()
        system, machine = info.get("OSType"), info.get("Architecture")
        if system != "linux" or machine != platform.machine():
            return f"the daemon runs {system} on {machine}: needs Linux on {platform.machine()}, as here."
        if runtime is not None and runtime not in info.get("Runtimes", {}):
            known = ", ".join(sorted(info.get("Runtimes", {})))
            return f"the daemon has no runtime {runtime!r}, only {known}. Add it to /etc/docker/daemon.json."
        if not client.images.list(image):
            return container_daemon.missing_image(image)
        return ""
    except (DockerException, OSError) as error:
        raise SandboxUnavailable(f"the Docker daemon stopped answering: {error}") from error
    finally:
        client.close()

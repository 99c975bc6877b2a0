"""The host's side of one session in a container."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from agentrl.errors import ConfigError, SandboxError

from . import container_daemon
from .container_stream import ContainerStream
from .guest import wire
from .protocol import Limits
from .supervised import SupervisedSession

if TYPE_CHECKING:
    import docker

logger = logging.getLogger(__name__)

_START_SECONDS = 120.0
_T = TypeVar("_T")


class ContainerSession(SupervisedSession):
    """One session of a DockerSandbox; made by its `create`."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        client: docker.DockerClient,
        forget: Callable[[ContainerSession], None],
        copy: Callable[[bytes], Awaitable[ContainerSession]],
    ) -> None:
        super().__init__(name, limits)
        self._client, self._forget, self._copy = client, forget, copy
        self._stream: ContainerStream | None = None

    async def start(self, preload: Sequence[str], **options: Any) -> None:
        """Make the container, attach to it, start it, and have its agent ready."""
        await _finished(
            asyncio.to_thread(container_daemon.create, self._client, self._id, self._limits, **options)
        )
        sock = await _finished(asyncio.to_thread(container_daemon.attach, self._client, self._id))
        self._stream = await ContainerStream.over(sock)
        setup = {"limits": asdict(self._limits), "preload": list(preload)}
        try:
            async with asyncio.timeout(_START_SECONDS):
                header, _ = await self._stream.ask(setup)
        except TimeoutError:
            raise SandboxError(f"a container did not start in {_START_SECONDS:.0f} s") from None
        except (EOFError, ConnectionError, wire.FrameError) as error:
            raise SandboxError(
                f"a container ended before it was ready: {self._stream.errors.strip() or error}"
            ) from error
        if "preload" in header:
            raise ConfigError(f"a module to preload cannot be imported in the container: {header['preload']}")
        if "ready" not in header:
            raise SandboxError(f"a container could not be set up: {header.get('failed', header)}")

    # ---- calls

    async def _exchange(
        self, request: dict[str, Any], body: bytes, fd: int | None
    ) -> tuple[dict[str, Any], bytes]:
        assert self._stream is not None and fd is None
        return await self._stream.ask(request, body)

    def _out_of_memory(self, header: dict[str, Any], kills: int) -> bool:
        return int(header.get("oom_kills", 0)) > 0

    async def fork(self) -> ContainerSession:
        return await self._copy(await self._file({"op": "pack"}, b""))

    async def unpack(self, files: bytes) -> None:
        """Begin with the files that another session's `fork` took."""
        await self._file({"op": "unpack"}, files)

    # ---- end

    def _kill(self) -> None:
        if self._stream is not None:
            self._stream.abort()  # its agent ends at this, and its container with it

    async def _end(self) -> None:
        try:
            if self._stream is not None:
                self._stream.abort()
            await asyncio.to_thread(container_daemon.remove, self._client, self._id)
        except SandboxError as error:
            logger.warning("%s", error)
        finally:
            self._forget(self)


async def _finished(work: Awaitable[_T]) -> _T:
    """Wait for a thread's work even if cancelled: it would go on, and make what nobody then removes."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise

"""The first process of a session's container: the same supervisor, spoken to over its standard streams.

The container gives what a namespace session makes for itself: namespaces, a read-only root, capped file
systems. Guest processes hold none of the standard streams, so the control channel is out of their reach.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from . import confine, seccomp, wire
from .supervisor import Answer, Supervisor

ROOT = "/session"  # one tmpfs, so one quota, for the folders that /workspace and /tmp are links to
FOLDERS = (("workspace", 0o755), ("tmp", 0o1777))
_CHUNK = 1 << 16
_TAR_OVERHEAD = 2048  # bytes per file: its header and padding
# the host's memory controller, seen from inside: version 2, then version 1
_OOM_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": confine.WORKSPACE,
    "USER": "agent",
    "LANG": "C.UTF-8",
    "TMPDIR": "/tmp",
    "PYTHONDONTWRITEBYTECODE": "1",
    "MPLBACKEND": "Agg",
    # one thread per session: a forked process must not miss its threads
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
    ),
}


class StandardStreams(socket.socket):
    """Standard input and output as the one connection that a supervisor expects."""

    def __init__(self, reader: int, writer: int) -> None:
        ours, unused = socket.socketpair()
        unused.close()
        super().__init__(fileno=ours.detach())
        self._reader, self._writer = reader, writer

    def fileno(self) -> int:
        return self._reader

    def recvmsg_into(
        self, buffers: Any, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[Any], int, Any]:
        return os.readv(self._reader, list(buffers)), [], 0, None  # no descriptor comes this way

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        return os.readv(self._reader, [buffer])

    def sendmsg(self, buffers: Any, *unused: Any) -> int:
        return os.writev(self._writer, list(buffers))

    def sendall(self, data: Any, flags: int = 0) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._writer, view) :]


class ContainerSupervisor(Supervisor):
    """Also tells how many processes the memory limit ended, and copies the session's files."""

    def __init__(self, host: socket.socket, spec: dict[str, Any]) -> None:
        super().__init__(host, spec)
        self._operations = {name: _counted(run) for name, run in self._operations.items()}
        self._operations |= {"pack": self._pack, "unpack": self._unpack}

    def _pack(self, request: dict[str, Any], body: memoryview) -> Answer:
        """All files as a tar archive, written by a guest process: it may meet anything."""
        names = [name for name, _ in FOLDERS]
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = self._tar((self._null, writer, self._null), ["-cf", "-", *names])
        os.close(writer)
        most = (self._limits["disk_mb"] << 20) + (self._limits["inodes"] + 16) * _TAR_OVERHEAD
        data = bytearray()
        while len(data) <= most and (piece := os.read(reader, _CHUNK)):
            data += piece
        os.close(reader)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if len(data) > most or code not in (0, 1):  # 1: a file changed meanwhile
            return {"refused": f"its files cannot be copied (tar ended with code {code})"}, ()
        return {}, [bytes(data)]

    def _unpack(self, request: dict[str, Any], body: memoryview) -> Answer:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = self._tar((reader, self._null, self._null), ["-xpf", "-"])
        os.close(reader)
        try:
            while body:
                body = body[os.write(writer, body[:_CHUNK]) :]
        except BrokenPipeError:
            pass  # its exit code tells
        os.close(writer)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return ({"refused": f"tar ended with code {code}"} if code else {}), ()

    def _tar(self, streams: tuple[int, int, int], arguments: list[str]) -> int:
        argv = ["/bin/tar", "-C", ROOT, *arguments]
        return confine.spawn(streams, set(), self._spec, lambda: os.execv(argv[0], argv))


def _counted(run: Callable[[dict[str, Any], memoryview], Answer]) -> Callable[..., Answer]:
    def counted(request: dict[str, Any], body: memoryview) -> Answer:
        before = oom_kills()
        header, answer = run(request, body)
        header["oom_kills"] = oom_kills() - before
        return header, answer

    return counted


def oom_kills() -> int:
    """How many processes of this container the memory limit has ended; 0 where that cannot be told."""
    for path in _OOM_COUNTERS:
        try:
            with open(path, encoding="ascii") as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except OSError:
            continue
    return 0


def main() -> NoReturn:
    """Read the session's limits and modules from the first frame, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a signal without a handler cannot reach a first process
    host = StandardStreams(*_take_streams())
    try:
        setup, _ = wire.receive(host)
        problem = _prepare(setup["preload"])
        if problem:
            wire.send(host, {"preload": problem})
            os._exit(1)
        confine.seal()
        spec = {"limits": setup["limits"] | {"memory_cgroup": True}, "seccomp": seccomp.program()}
        supervisor = ContainerSupervisor(host, spec)
        wire.send(host, {"ready": 1})
        supervisor.serve()
    except (EOFError, ConnectionError):
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  the host has to hear of it
        wire.send(host, {"failed": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(1)


def _take_streams() -> tuple[int, int]:
    """Move the control channel off the standard descriptors, which preloaded modules may use."""
    null = os.open("/dev/null", os.O_RDWR)
    moved = os.dup(0), os.dup(1)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    return moved


def _prepare(preload: Sequence[str]) -> str:
    os.umask(0o022)
    for name, mode in FOLDERS:
        os.mkdir(f"{ROOT}/{name}")
        os.chmod(f"{ROOT}/{name}", mode)
    os.chdir(confine.WORKSPACE)
    os.environ.clear()
    os.environ.update(_ENVIRONMENT)
    sys.argv = [""]
    try:
        for name in preload:
            importlib.import_module(name)
    except BaseException as error:  # noqa: BLE001  a module may raise anything
        return f"{type(error).__name__}: {error}"[:4000]
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, shared pages
    return ""

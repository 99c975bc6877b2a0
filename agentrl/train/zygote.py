"""Starts a run's worker processes by forking one that has imported verl, vLLM and torch already.

Each of a run's half a dozen Python processes would import the same five thousand modules, for more than ten
seconds of a core each. So where Ray would start Python (its ``py_executable``), and where a worker would (its
``multiprocessing``), :mod:`agentrl.train.forked` runs instead: it hands its arguments, environment and open
files to the process in here, which forks a child that runs them, and stands for that child until it ends.
The children share the memory of what was imported, too.

For runs on this machine's CPU: a process in which a GPU is in use must not be forked.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import random
import runpy
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentrl.train import forked
from agentrl.train.forked import MAX_FILES, NUMBER

EARLY = ("torch", "torch._dynamo", "torch._inductor.lowering", "tensordict", "transformers", "datasets")
"""What is imported at once: what does not import Ray."""
MODULES = (
    "ray._private.workers.default_worker",
    "agentrl.train.agent_loop",
    "agentrl.train.workers",
    "transfer_queue",
    "verl.workers.engine_workers",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.core",
)
"""What else the workers import. Ray reads its variables when it is imported, the number of its job and of its
own process among them, which all workers of a run share: so that waits for the first who asks."""

PR_SET_PDEATHSIG = 1
SOCKET = "zygote"
"""In its folder."""


class Zygote:
    """The process that imports and forks; it lives as long as the one that made it.

    Args:
        folder: an empty folder, of a short path, for its socket.
        program: the file to write that is called in Python's place. On some machines nothing in ``/tmp`` may
            run.
        early, modules: what it imports at once, and for the first who asks.
    """

    def __init__(
        self,
        folder: Path,
        program: Path,
        early: Sequence[str] = EARLY,
        modules: Sequence[str] = MODULES,
    ) -> None:
        self.program, self._closed = program, False
        self.program.write_text(
            f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S {shlex.quote(forked.__file__)} "
            f'{shlex.quote(str(folder / SOCKET))} "$@"\n'
        )
        self.program.chmod(0o755)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(str(folder / SOCKET))
            listening.listen(64)  # who asks before everything is imported waits here
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    __name__,
                    str(listening.fileno()),
                    str(self.program),
                    ",".join(early),
                    ",".join(modules),
                ],
                pass_fds=[listening.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def lost(self) -> bool:
        """Wait until it has ended; whether it did so by itself: what asks it then, asks in vain."""
        self._process.wait()
        return not self._closed

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and every child with it."""
        self._closed = True
        self._process.kill()
        self._process.wait()
        self.program.unlink(missing_ok=True)


@dataclass(frozen=True)
class Request:
    """What a child runs.

    Args:
        arguments: as of ``python``.
        environment, folder: where it runs.
        files: its open files, by the number that each is to have.
    """

    arguments: list[str]
    environment: dict[str, str]
    folder: str
    files: dict[int, int]


class Server:
    """Forks a child for each that asks, and tells that one its process id and, in the end, its status.

    Args:
        listening: where they ask.
        modules: what is imported for the first.
    """

    def __init__(self, listening: socket.socket, modules: Sequence[str]) -> None:
        self._listening, self._modules = listening, modules
        self._ended, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._asked: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()

    def serve(self) -> Request:
        """Serve for ever; returns in each child, with what that is to run."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._selector.register(self._ended, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listening:
                    request = self._accept()
                    if request is not None:
                        return request
                elif key.fileobj is self._ended:
                    self._ended.recv(4096)
                    self._reap()
                elif (
                    self._asked.get(key.data) is key.fileobj
                ):  # who asked was killed, and it was not reaped yet
                    self._selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)

    def _accept(self) -> Request | None:
        """Fork for one that asks; what to run in the child, and ``None`` in this process."""
        connection, _ = self._listening.accept()
        request = receive(connection)
        if request is None:
            connection.close()
            return None
        if self._modules:
            os.environ.update(request.environment)
            _load(self._modules)
            self._modules = ()
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            self._selector.close()
            for inherited in (self._listening, self._ended, self._wake, connection, *self._asked.values()):
                inherited.close()
            return request
        for number in request.files.values():
            os.close(number)
        self._asked[child] = connection
        self._selector.register(connection, selectors.EVENT_READ, child)
        _tell(connection, child)
        return None

    def _reap(self) -> None:
        for child, status in _ended():
            connection = self._asked.pop(child)
            if connection in self._selector.get_map():
                self._selector.unregister(connection)
            _tell(connection, status)
            connection.close()


def receive(connection: socket.socket) -> Request | None:
    """What is asked for; ``None`` if who asks was killed meanwhile."""
    first, numbers, _, _ = socket.recv_fds(connection, NUMBER.size, MAX_FILES)
    wanted = NUMBER.unpack(first)[0] if len(first) == NUMBER.size else -1
    text = b""
    while len(text) < wanted and (more := connection.recv(wanted - len(text))):
        text += more
    if len(text) != wanted:
        for number in numbers:
            os.close(number)
        return None
    asked = json.loads(text)
    files = dict(zip(asked["files"], numbers, strict=True))
    return Request(asked["arguments"], asked["environment"], asked["folder"], files)


def run(request: Request, program: str) -> None:
    """Be the process that was asked for.

    Args:
        request: what to run.
        program: for the Python processes that this one starts.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _place(request.files)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    _be_different()
    multiprocessing.set_executable(program)
    kind, what, rest = parsed(request.arguments)
    sys.argv = [what if kind == "script" else f"-{kind}", *rest]
    if kind == "c":
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(module))
    elif kind == "m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(what, run_name="__main__")


def parsed(arguments: list[str]) -> tuple[str, str, list[str]]:
    """``c``, ``m`` or ``script``; the code, module or file; what follows it. Python's options are left out.

    Raises:
        ValueError: there is nothing to run.
    """
    words = iter(arguments)
    for word in words:
        if word in ("-c", "-m"):
            return word[1:], next(words), list(words)
        if word in ("-X", "-W"):
            next(words)
        elif not word.startswith("-"):
            return "script", word, list(words)
    raise ValueError(f"python {shlex.join(arguments)} names nothing to run")


def _place(files: dict[int, int]) -> None:
    """Give each open file its number."""
    # First out of the way of the numbers that are wanted.
    beyond = max(files, default=0) + 1
    away = {wanted: fcntl.fcntl(number, fcntl.F_DUPFD, beyond) for wanted, number in files.items()}
    for number in files.values():
        os.close(number)
    for wanted, number in away.items():
        os.dup2(number, wanted)
        os.close(number)


def _be_different() -> None:
    """Draw other random numbers than the other children."""
    import numpy as np

    random.seed()
    np.random.seed()


def _ended() -> Iterator[tuple[int, int]]:
    """Children that ended, and their exit statuses."""
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if child == 0:
            return
        yield child, os.waitstatus_to_exitcode(status)


def _tell(connection: socket.socket, number: int) -> None:
    try:
        connection.sendall(NUMBER.pack(number))
    except ConnectionError:  # it was killed
        return


def _prepare_titles() -> None:
    """Let children name themselves, as vLLM's engine does, and keep the variables that a run is known by.

    setproctitle writes over the arguments that a process was started with. It looks for them when it is first
    used, and does not find them where variables were set before.
    """
    os.environ["SPT_NOENV"] = "1"
    import setproctitle

    setproctitle.getproctitle()


def _load(modules: Sequence[str]) -> None:
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or collecting garbage would copy all shared memory


def main(listening: int, program: str, early: Sequence[str], modules: Sequence[str]) -> None:
    """Import, serve, and be each child."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _prepare_titles()
    _load(early)
    run(Server(socket.socket(fileno=listening), modules).serve(), program)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *([*filter(None, names.split(","))] for names in sys.argv[3:]))

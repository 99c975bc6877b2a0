"""The warm process that sessions are forked from.

It answers one request per datagram on its control socket: the session's limits as JSON, and a socket for the
session. It never runs guest code and never waits for a session.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import site
import socket
import sys
from typing import Any, NoReturn

from . import confine, linux, seccomp, wire
from .supervisor import Supervisor

_MAX_REQUEST = 65_536
_READY = b"ready"


def main() -> NoReturn:
    """Arguments: the control socket's number and a JSON object with ``path``, ``executable``, ``preload``."""
    control = socket.socket(fileno=int(sys.argv[1]))
    setup = json.loads(sys.argv[2])
    sys.argv = [""]
    sys.path = [entry for entry in sys.path if entry != setup["own"]] + setup["path"]
    sys.executable = setup["executable"]
    site.setquit()
    site.sethelper()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for sessions: the kernel reaps them
    linux.become_subreaper()
    program = seccomp.program()
    try:
        for name in setup["preload"]:
            importlib.import_module(name)
    except BaseException as error:  # noqa: BLE001  a module may raise anything; the host has to hear of it
        control.send(f"preload: {type(error).__name__}: {error}".encode(errors="replace")[:4000])
        os._exit(1)
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, shared pages
    control.send(_READY)
    _serve(control, program)


def _serve(control: socket.socket, program: bytes) -> NoReturn:
    while True:
        request, fds, _, _ = socket.recv_fds(control, _MAX_REQUEST, 1)
        if not request:
            os._exit(0)  # the host is gone: our pid namespace, and every session in it, ends with us
        if os.fork() == 0:
            _start(fds[0], json.loads(request), program)
        for fd in fds:
            os.close(fd)


def _start(fd: int, limits: dict[str, Any], program: bytes) -> NoReturn:
    """In a fork: enter new namespaces, start the supervisor in them, send the host a handle on it, and go."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    linux.close_all_but({0, 1, 2, fd})
    host = socket.socket(fileno=fd)
    null = os.open("/dev/null", os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    os.close(null)
    try:
        confine.new_namespaces()
        pid = os.fork()
        if pid == 0:
            _supervise(host, limits, program)
        socket.send_fds(host, [wire.encode({"hello": 1})], [os.pidfd_open(pid)])
    except BaseException as error:  # noqa: BLE001  reported, and the process ends: zygote code must not run in the copy
        _fail(host, error)
    os._exit(0)


def _supervise(host: socket.socket, limits: dict[str, Any], program: bytes) -> NoReturn:
    try:
        confine.furnish(limits["disk_mb"], limits["inodes"])
        confine.seal()
        header, _ = wire.receive(host)  # the host has put this process into its cgroup
        host.sendall(wire.encode({"ready": 1}))
        limits["memory_cgroup"] = bool(header["memory_cgroup"])
        Supervisor(host, {"limits": limits, "seccomp": program}).serve()
    except EOFError:
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  reported too
        _fail(host, error)
    finally:
        os._exit(1)


def _fail(host: socket.socket, error: BaseException) -> None:
    try:
        host.sendall(wire.encode({"failed": f"{type(error).__name__}: {error}"}))
    except OSError:
        pass  # the host is gone too

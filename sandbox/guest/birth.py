"""How a session begins: from the zygote into namespaces of its own, and there a supervisor.

A fork of a session lies inside the namespaces of the session that it copies, since the copied interpreter may
only enter namespaces below its own. The zygote makes it all the same, by joining the parent's first: its
memory holds nothing of the parent's, and the parent's guests never see a process that they may look into.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import Any, NoReturn

from . import branch, confine, linux, wire
from .supervisor import Supervisor


def start(fds: list[int], limits: dict[str, Any], program: bytes) -> NoReturn:
    """In a fork of the zygote: enter new namespaces, start the supervisor in them, send the host a handle on
    it, and go. ``fds``: the session's socket; for a fork also a bridge to the parent's supervisor."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    linux.close_all_but({0, 1, 2, *fds})
    host, *bridges = (socket.socket(fileno=fd) for fd in fds)
    null = os.open("/dev/null", os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    os.close(null)
    try:
        folders = _enter_parent(bridges[0]) if bridges else []
        confine.new_namespaces(user=not bridges)
        pid = os.fork()
        if pid == 0:
            _supervise(host, limits, program, bridges, folders)
        socket.send_fds(host, [wire.encode({"hello": 1})], [os.pidfd_open(pid)])
    except BaseException as error:  # noqa: BLE001  reported, and the process ends: zygote code must not run in the copy
        _fail(host, error)
    os._exit(0)


def _enter_parent(bridge: socket.socket) -> list[int]:
    """Go on as a process of the parent session's, in a user namespace below its own; the parent's folders."""
    _, (user, pids, *folders), _, _ = socket.recv_fds(bridge, 1, 2 + len(branch.FOLDERS))
    linux.setns(user, linux.CLONE_NEWUSER)
    linux.setns(pids, linux.CLONE_NEWPID)
    confine.new_user_namespace()
    linux.set_dumpable(False)  # from here on the parent's guests see us
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)
    return folders


def _supervise(
    host: socket.socket,
    limits: dict[str, Any],
    program: bytes,
    bridges: list[socket.socket],
    folders: list[int],
) -> NoReturn:
    try:
        confine.furnish(limits["disk_mb"], limits["inodes"])
        confine.hide(limits["hide"])
        confine.seal()
        header, _ = wire.receive(host)  # the host has put this process into its cgroup
        branch.copy_folders(folders)
        limits["memory_cgroup"] = bool(header["memory_cgroup"])
        spec = {"limits": limits, "seccomp": program}
        if header["stateless"]:
            confine.confine_self(spec)
        supervisor = Supervisor(host, spec)
        for bridge in bridges:
            supervisor.invite(bridge)
        wire.send(host, {"ready": 1})
        supervisor.serve()
    except EOFError:
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  reported too
        _fail(host, error)
    finally:
        os._exit(1)


def _fail(host: socket.socket, error: BaseException) -> None:
    try:
        wire.send(host, {"failed": f"{type(error).__name__}: {error}"})
    except OSError:
        pass  # the host is gone too

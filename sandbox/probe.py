"""Whether sessions can be made on this machine, found out by making one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import asdict

from . import view
from .guest import wire
from .protocol import Limits

_SECONDS = 20.0
_FAREWELL_SECONDS = 2.0
_HINT = (
    "Unprivileged user namespaces must be allowed: sysctl user.max_user_namespaces above 0, "
    "kernel.unprivileged_userns_clone=1 where that exists, "
    "kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu; "
    "in a container, an unmasked /proc and a seccomp profile that allows unshare and mount."
)


def try_once(bwrap: str) -> str:
    """Make a session as always and throw it away. Empty, or what failed and what to do about it. Blocks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(_SECONDS)
    life, their_life = socket.socketpair()
    command = view.zygote_command(bwrap, theirs.fileno(), their_life.fileno(), ())
    try:
        process = subprocess.Popen(
            command.argv, env={}, cwd="/", pass_fds=command.fds, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        ours.close()
        life.close()
        return f"{command.argv[0]} cannot be started: {error}."
    finally:
        theirs.close()
        their_life.close()
        for fd in command.fds[2:]:
            os.close(fd)
    with process:
        with ours, life:
            failure = _session_failure(ours)
        try:
            process.wait(_FAREWELL_SECONDS)  # it ends when its sockets close
        except subprocess.TimeoutExpired:
            process.kill()
        words = process.stderr.read(4096).decode(errors="replace").strip() if process.stderr else ""
    if failure:
        last_words = words.splitlines()[-1] if words else failure
        return f"bubblewrap cannot make a session here: {last_words}. {_HINT}"
    return ""


def _session_failure(control: socket.socket) -> str:
    try:
        ready = control.recv(4096)
        if ready != b"ready":
            return ready.decode(errors="replace") or "it ended at once"
        host, guest = socket.socketpair()
        with host:
            host.settimeout(_SECONDS)
            with guest:
                socket.send_fds(control, [json.dumps(asdict(Limits())).encode()], [guest.fileno()])
            host.sendall(wire.encode({"memory_cgroup": False, "stateless": False}))
            while True:
                header, _ = wire.receive(host)
                if "failed" in header:
                    return str(header["failed"])
                if "ready" in header:
                    return ""
    except (OSError, EOFError, wire.FrameError) as error:
        return f"{type(error).__name__}: {error}"

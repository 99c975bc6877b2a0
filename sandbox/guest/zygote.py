"""The warm process that sessions are forked from, and its keeper.

The keeper is bubblewrap's child, and the sandbox lasts for as long as it does. The zygote is a fork of it:
should it die, the sessions that it made go on. It answers one request per datagram on its control socket:
the session's limits as JSON, and a socket for the session. It never runs guest code and never waits for a
session.
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
from typing import NoReturn

from . import birth, linux, seccomp

_MAX_REQUEST = 65_536
_READY = b"ready"
#: Modules that load more and set themselves up when first used: sessions then share that too.
_FIRST_USES = {
    "pandas": "from pandas import DataFrame as D; d = D({'x': [1, 2.5], 'y': list('ab')}); "
    "d.x.sum(), d.groupby('y').x.mean(), d.describe(), repr(d)"
}


def main() -> NoReturn:
    """Arguments: the numbers of the control socket and the keeper's, and a JSON object with ``path``,
    ``executable`` and ``preload``."""
    control, life = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    setup = json.loads(sys.argv[3])
    if os.fork():
        control.close()
        _keep(life)
    life.close()
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
            exec(_FIRST_USES.get(name, ""), {})  # noqa: S102  our own
    except BaseException as error:  # noqa: BLE001  a module may raise anything; the host has to hear of it
        control.send(f"preload: {type(error).__name__}: {error}".encode(errors="replace")[:4000])
        os._exit(1)
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, shared pages
    control.send(_READY)
    _serve(control, program)


def _keep(life: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while life.recv(1):
        continue  # nothing is ever sent
    os._exit(0)  # the host is gone: the pid namespace, and every session in it, ends with us


def _serve(control: socket.socket, program: bytes) -> NoReturn:
    while True:
        request, fds, _, _ = socket.recv_fds(control, _MAX_REQUEST, 2)
        if not request:
            os._exit(0)  # the host is gone
        if os.fork() == 0:
            birth.start(fds, json.loads(request), program)
        for fd in fds:
            os.close(fd)

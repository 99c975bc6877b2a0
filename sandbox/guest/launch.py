"""How root starts bubblewrap as a user without any rights.

Bubblewrap must not run as root (it would cover parts of /proc, and then no session could mount its own), but
that user may be unable to reach what is to be shown, such as a Python under /root. So root first attaches
those folders in a mount namespace of this process alone, then gives up its identity, and then becomes
bubblewrap.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NoReturn

from . import linux

_STAGE = "/tmp"  # there is one everywhere; the tmpfs put on it is seen by this process alone


def main() -> NoReturn:
    """The argument is a JSON object: ``user``, ``before`` and ``after`` (arguments), ``binds`` (pairs)."""
    plan = json.loads(sys.argv[1])
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    sources = [(_open(source), target) for source, target in plan["binds"]]
    linux.mount("tmpfs", _STAGE, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=0755")
    arguments = list(plan["before"])
    for index, (fd, target) in enumerate(sources):
        staged = f"{_STAGE}/{index}"
        _attach(fd, staged)
        os.close(fd)
        arguments += ["--ro-bind", staged, target]
    os.setgroups([])
    os.setresgid(plan["user"], plan["user"], plan["user"])
    os.setresuid(plan["user"], plan["user"], plan["user"])
    os.execve(arguments[0], arguments + plan["after"], {})


def _open(path: str) -> int:
    """Hold on to a path before the stage is set up over it."""
    return os.open(path, os.O_PATH)


def _attach(fd: int, staged: str) -> None:
    source = f"/proc/self/fd/{fd}"
    if os.path.isdir(source):
        os.mkdir(staged)
    else:
        with open(staged, "wb"):
            pass
    linux.mount(source, staged, None, linux.MS_BIND | linux.MS_REC)

"""Starts Chromium confined: run as a program of its own, in the place of Chromium, by Playwright's driver.

It goes into an empty network namespace, opens there the one socket that the browser can reach, hands it to
the process that drives the browser, and becomes bubblewrap, which becomes Chromium.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x1000_0000, 0x4000_0000
PR_SET_DUMPABLE, PR_SET_PDEATHSIG, SIGKILL = 4, 1, 9
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
BACKLOG = 512


def main(plan: dict[str, object], arguments: list[str]) -> None:
    """Become the confined browser.

    Args:
        plan: ``user`` to become if we are root, ``inside``: the user id in the namespace, ``port`` to listen
            on, ``socket``: path to which the listener is sent, ``command``: bubblewrap up to the browser.
        arguments: of the browser.
    """
    control = socket.socket(socket.AF_UNIX)
    control.connect(str(plan["socket"]))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        user = int(str(plan["user"]))
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    _checked(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))  # else /proc/self belongs to root, and the maps with it
    _checked(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
    user, group, inside = os.geteuid(), os.getegid(), int(str(plan["inside"]))
    _checked(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inside} {user} 1"),
        ("gid_map", f"{inside} {group} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(text)
    _bring_up_loopback()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", int(str(plan["port"]))))
        listener.listen(BACKLOG)
        socket.send_fds(control, [b"1"], [listener.fileno()])
    control.close()
    command = [str(word) for word in plan["command"]]  # type: ignore[attr-defined]
    os.execve(command[0], [*command, *arguments], {})


def _bring_up_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        [flags] = struct.unpack("16xH14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def _checked(status: int) -> None:
    if status != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])

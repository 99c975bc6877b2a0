"""What confines a browser: the command line of bubblewrap, and the program that Playwright starts instead."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from agentrl import SandboxUnavailable

UNPRIVILEGED_ID = 61_418
"""The user that browsers run as when we are root: nobody's, and no other service's."""
INSIDE_ID = 1000
PORT = 8000
"""On which the gate listens, in the browser's own network namespace."""
BROWSERS = ("/usr/lib/chromium/chromium-headless-shell", "/usr/lib/chromium/chromium")
"""Where Debian keeps them; the first that is there. The shell alone is smaller, and faster to open pages."""
TEMPORARY_BYTES = 256 << 20
"""What a browser may write to each of /tmp and /dev/shm, which live in memory."""

_LINKED = ("/bin", "/sbin", "/lib", "/lib64")
_SHOWN = ("/etc/fonts", "/etc/ld.so.cache", "/etc/alternatives")
_LAUNCH = Path(__file__).with_name("launch.py")


def find_browser(executable: str = "") -> str:
    """The Chromium to start.

    Raises:
        SandboxUnavailable: it or bubblewrap is not installed.
    """
    if shutil.which("bwrap") is None:
        raise SandboxUnavailable(
            "A browser is confined by bubblewrap, which is not installed: apt-get install bubblewrap."
        )
    for path in [executable] if executable else BROWSERS:
        if os.access(path, os.X_OK):
            return path
    raise SandboxUnavailable(
        f"There is no browser at {executable or BROWSERS[0]}: apt-get install chromium-headless-shell."
    )


def write_program(folder: Path, browser: str, control: Path) -> Path:
    """Write the program that starts ``browser`` confined, and sends its listening socket to ``control``."""
    plan = {
        "user": UNPRIVILEGED_ID,
        "inside": INSIDE_ID,
        "port": PORT,
        "socket": str(control),
        "command": _command(browser),
    }
    words = [sys.executable, "-I", "-S", "-B", str(_LAUNCH), json.dumps(plan)]
    program = folder / "browser"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o755)
    return program


def _command(browser: str) -> list[str]:
    """Bubblewrap up to the browser: a view of programs and fonts alone, all of it read-only but /tmp.

    The network namespace is the one it is started in. User namespaces stay allowed inside: Chromium's own
    sandbox is made of them.
    """
    bwrap = shutil.which("bwrap")
    assert bwrap is not None
    command = [bwrap, "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--die-with-parent", "--new-session", "--hostname", "browser", "--ro-bind", "/usr", "/usr"]
    for path in _LINKED:
        if Path(path).is_symlink():
            command += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            command += ["--ro-bind", path, path]
    for path in _SHOWN:
        command += ["--ro-bind-try", path, path]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for path in ("/tmp", "/dev/shm"):
        command += ["--size", str(TEMPORARY_BYTES), "--tmpfs", path]
    command += ["--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"]
    return [*command, "--remount-ro", "/", "--chdir", "/tmp", "--", browser]

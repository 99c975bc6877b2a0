"""A PostgreSQL server of its own: data folder and socket in a temporary folder, no port."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SETTINGS = (
    "-c listen_addresses= -c fsync=off -c shared_buffers=16MB -c max_connections=30 -c log_min_messages=fatal"
)


def _program(name: str) -> str:
    """Debian keeps the server's programs out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")) or [Path(shutil.which(name) or "")]
    if not found[-1].is_file():
        raise AssertionError(f"there is no {name}: these tests need Debian's package postgresql")
    return str(found[-1])


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """Yields how a superuser connects."""
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    how: dict[str, Any] = (
        {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    )
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        shutil.chown(folder, user)
        data = str(folder / "data")

        def call(*command: str) -> None:
            done = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=100,
                **how,
            )
            assert done.returncode == 0, done.stdout + done.stderr

        call(
            _program("initdb"),
            "-D",
            data,
            "-U",
            "owner",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        )
        options = f"{_SETTINGS} -c unix_socket_directories={folder}"
        call(_program("pg_ctl"), "-D", data, "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            yield f"host={folder} user=owner dbname=postgres"
        finally:
            call(_program("pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")

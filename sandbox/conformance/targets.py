"""Things of this machine that code in a sandbox must not reach: a file, a listener, a secret."""

from __future__ import annotations

import os
import re
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECRET_NAME = "AGENTRL_CONFORMANCE_SECRET"


@dataclass(frozen=True)
class Targets:
    """``canary`` is a path of this machine, ``canary_text`` what the file holds; ``port`` is listened on at
    127.0.0.1; ``secret`` is the value of the environment variable SECRET_NAME."""

    canary: Path
    canary_text: str
    port: int
    secret: str

    def fill(self, code: str) -> str:
        """Put the targets in place of an attack's placeholders; other braces stay."""
        half = len(self.secret) // 2
        values = {
            "CANARY": str(self.canary),
            "PORT": str(self.port),
            "SECRET": SECRET_NAME,
            "SECRET_ENV": SECRET_NAME,
            "SECRET_ENV_RE": SECRET_NAME,
            "SECRET_A": self.secret[:half],
            "SECRET_B": self.secret[half:],
            "SECRET_VAL_A": self.secret[:half],
            "SECRET_VAL_B": self.secret[half:],
        }
        return re.sub(r"\{([A-Z_]+)\}", lambda match: values.get(match[1], match[0]), code)


@contextmanager
def targets() -> Iterator[Targets]:
    """Set the targets up; they are gone afterwards. The sandbox has to be opened inside."""
    secret = secrets.token_hex(16)
    before = os.environ.get(SECRET_NAME)
    os.environ[SECRET_NAME] = secret
    try:
        with (
            tempfile.TemporaryDirectory(prefix="agentrl-canary-") as folder,
            socket.create_server(("127.0.0.1", 0)) as listener,
        ):
            canary = Path(folder, "canary.txt")
            canary.write_text(secret[::-1])
            yield Targets(canary, secret[::-1], listener.getsockname()[1], secret)
    finally:
        if before is None:
            del os.environ[SECRET_NAME]
        else:
            os.environ[SECRET_NAME] = before

"""Folders that appear whole or not at all."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentrl.errors import ConfigError


def check_free(folder: Path) -> None:
    """Raise ConfigError unless ``folder`` is missing or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{str(folder)!r} exists and is not empty. Name another folder, or move it away.")


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder`` to fill, which takes its place once everything is in it.

    If another process was first, its folder stays and ours is thrown away.

    Raises:
        ConfigError: the place cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        made.chmod(0o755)
    except OSError as problem:
        raise ConfigError(f"{str(folder)!r} cannot be written: {problem.strerror or problem}.") from problem
    try:
        yield made
        made.rename(folder)
    except OSError as problem:
        if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)

"""Models that were made on this machine, kept between runs."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from agentrl.env import Env
from agentrl.train.folders import building


def cache_folder() -> Path:
    """``$AGENTRL_CACHE``, else ``$XDG_CACHE_HOME/agentrl``, else ``~/.cache/agentrl``; may not exist yet."""
    if own := os.environ.get("AGENTRL_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "agentrl"


def cached(name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``models/<name>`` of the cache, filled by ``make`` if it is not there yet.

    Processes that need it at the same time may both make it; one of the folders stays.

    Raises:
        ConfigError: the cache cannot be written.
    """
    folder = cache_folder() / "models" / name
    if not folder.is_dir():
        with building(folder) as unfinished:
            make(unfinished)
    return folder


def environment_digest(env: Env, model: Path, settings: Mapping[str, Any]) -> str:
    """Changes whenever a model fine-tuned on ``env`` would.

    It covers the Python files beside the environment's own if that is a package, else its file
    alone; what the instance was made with; the files of the model begun with, or the module that makes
    it; and the settings. Tools and rewards that live elsewhere are not looked at.
    """
    source = Path(inspect.getfile(type(env)))
    sources = sorted(source.parent.rglob("*.py")) if source.name == "__init__.py" else [source]
    digest = hashlib.sha256()
    for text in (type(env).__qualname__, _described(env), json.dumps(settings, sort_keys=True)):
        digest.update(text.encode() + b"\0")
    for file in [*sources, *_files(model)]:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _files(folder: Path) -> Iterable[Path]:
    return [folder] if folder.is_file() else sorted(path for path in folder.iterdir() if path.is_file())


def _described(env: Env) -> str:
    """What tells instances of one class apart, without the addresses that default reprs hold."""
    names = sorted(name for name in vars(env) if not name.startswith("_") or name == "_tasks")
    return re.sub(r" at 0x[0-9a-f]+", "", repr([(name, vars(env)[name]) for name in names]))

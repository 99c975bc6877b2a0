"""The folder of one run, and what lies where in it."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel

from agentrl.errors import ConfigError, DataError, NotFound
from agentrl.observation import Picture

Kind = Literal["train", "eval", "warmup"]
IMAGES = "images"

_REASONS = {
    errno.ENOSPC: "the disk is full. Free some space, or choose another disk with runs=FOLDER",
    errno.EDQUOT: "your disk quota is used up. Free some space, or choose another disk with runs=FOLDER",
    errno.EACCES: "you may not write there. Choose a folder of yours with runs=FOLDER",
    errno.EPERM: "you may not write there. Choose a folder of yours with runs=FOLDER",
    errno.EROFS: "that file system is read-only. Choose another folder with runs=FOLDER",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failure to write ``path`` into a message that says what to do.

    Raises:
        ConfigError: the disk is full, or the place cannot be written.
    """
    try:
        yield
    except OSError as problem:
        reason = _REASONS.get(
            problem.errno or 0, f"{problem.strerror or problem}. Choose another folder with runs=FOLDER"
        )
        raise ConfigError(f"{str(path)!r} cannot be written: {reason}.") from problem


@dataclass(frozen=True)
class RunFolder:
    """One run's files. Make it with :meth:`create`, find it again with :meth:`open`.

    ::

        config.yaml          the settings
        run.json             what kind of run this is, of which environment, made when
        events/              one file of events per process
        metrics.jsonl        one line per training step
        learning_curve.png   success over the steps
        summary.json         the outcome
        doctor.json          the certificate
        checkpoints/         the trainer's state
        episodes.jsonl       an evaluation's episodes, one line each
        images/              the images of an evaluation, and of the steps that the doctor examined
        log.txt              what the processes printed
    """

    path: Path

    @classmethod
    def create(
        cls, root: str | Path, env: str, config: BaseModel | Mapping[str, Any], *, kind: Kind = "train"
    ) -> RunFolder:
        """Make ``<root>/<YYYYmmdd-HHMMSS>-<env>-<xxxx>/`` and write the settings into it.

        Args:
            root: the folder of run folders; made if missing.
            env: the environment's name, dotted path or file; its last part names the folder.
            config: the settings, kept as ``config.yaml``.
            kind: what the run does; ``last`` means the newest of a kind.

        Raises:
            ConfigError: the disk is full, or the place cannot be written.
        """
        data = config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config)
        now = time.time()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
        run = cls(Path(root) / f"{stamp}-{_slug(env)}-{secrets.token_hex(2)}")
        with writing(run.path):
            run.path.mkdir(parents=True)
            run.events.mkdir()
            run.config.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
        run.write_json(run.path / "run.json", {"kind": kind, "env": env, "created": now})
        return run

    @classmethod
    def open(cls, path: str | Path, root: str | Path = "runs", *, kind: Kind = "train") -> RunFolder:
        """The run folder at ``path``, or called ``path`` in ``root``, or with ``last`` the newest.

        Args:
            path: a folder, a run's name, or ``last``.
            root: where names and ``last`` are looked up.
            kind: of which kind ``last`` is.

        Raises:
            NotFound: there is no such run.
        """
        if str(path) == "last":
            runs = [run for run in map(cls, _folders(Path(root))) if run.info.get("kind") == kind]
            if not runs:
                raise NotFound(f"There is no {kind} run in {str(root)!r} yet.")
            return max(runs, key=lambda run: (float(run.info.get("created", 0)), run.path.name))
        for candidate in (Path(path), Path(root) / path):
            if (candidate / "config.yaml").is_file():
                return cls(candidate)
        known = [folder.name for folder in _folders(Path(root))][-3:]
        hint = f" The newest in {str(root)!r}: {', '.join(known)}." if known else ""
        raise NotFound(f"{str(path)!r} is no run folder: it has no config.yaml.{hint}")

    @property
    def name(self) -> str:
        """The folder's name, which is the run's id."""
        return self.path.resolve().name

    @property
    def config(self) -> Path:
        """The settings, as YAML."""
        return self.path / "config.yaml"

    @property
    def events(self) -> Path:
        """The folder of event files."""
        return self.path / "events"

    @property
    def metrics(self) -> Path:
        """One JSON line per training step."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """The outcome, as JSON."""
        return self.path / "summary.json"

    @property
    def doctor(self) -> Path:
        """The certificate, as JSON."""
        return self.path / "doctor.json"

    @property
    def log(self) -> Path:
        """What the run's processes printed."""
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def curve(self) -> Path:
        """The learning curve, as PNG."""
        return self.path / "learning_curve.png"

    @property
    def episodes(self) -> Path:
        """An evaluation's episodes, as JSON lines."""
        return self.path / "episodes.jsonl"

    @property
    def images(self) -> Path:
        """The folder of images, each named by its SHA-256."""
        return self.path / IMAGES

    @property
    def info(self) -> dict[str, Any]:
        """What ``run.json`` says: ``kind``, ``env``, ``created``; empty if it is not there."""
        path = self.path / "run.json"
        return self.read_json(path) if path.is_file() else {}

    def read_config(self) -> dict[str, Any]:
        """The settings the run was made with.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            data = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as problem:
            raise DataError(f"{self.config} cannot be read: {problem}") from problem
        if not isinstance(data, dict):
            raise DataError(f"{self.config} must hold a mapping of settings, not {type(data).__name__}.")
        return data

    @staticmethod
    def read_json(path: Path) -> dict[str, Any]:
        """An object that a run wrote.

        Raises:
            DataError: the file is missing or no JSON object.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise DataError(f"{path} cannot be read: {problem}") from problem
        if not isinstance(data, dict):
            raise DataError(f"{path} must hold a JSON object, not {type(data).__name__}.")
        return data

    @staticmethod
    def write_json(path: Path, data: Mapping[str, Any]) -> None:
        """Write an object whole or not at all: a reader never sees half of it.

        Raises:
            ConfigError: the disk is full, or the place cannot be written.
        """
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with writing(path):
            partial.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            partial.replace(path)


def keep_pictures(folder: Path, pictures: Iterable[Picture]) -> None:
    """Write an episode's pictures into a run folder's ``images``; those that are there already stay.

    Raises:
        ConfigError: the disk is full, or the place cannot be written.
    """
    for picture in pictures:
        path = folder / IMAGES / f"{picture.sha256}.png"
        if path.exists():
            continue
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            partial.write_bytes(picture.png)
            partial.replace(path)


def _slug(env: str) -> str:
    """A short name for a folder: ``./some/my_env.py:Math`` gives ``my_env``, ``a.b:Math`` gives ``math``."""
    place, _, attribute = env.partition(":")
    name = (
        Path(place).stem if "/" in place or place.endswith(".py") else attribute or place.rpartition(".")[2]
    )
    return re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")[:40] or "env"


def _folders(root: Path) -> list[Path]:
    """The run folders below ``root``, oldest first."""
    return sorted(config.parent for config in root.glob("*/config.yaml"))

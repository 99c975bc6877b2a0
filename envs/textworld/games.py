"""Games from seeds, made once and kept under the cache folder."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from agentrl import ConfigError, InfrastructureError
from agentrl.rewards.memo import Memo

KEPT = 256
"""Games kept in memory, of 0.4 MB each."""

MAKE_SECONDS = 600.0

MAKER = Path(__file__).with_name("make.py")


@dataclasses.dataclass(frozen=True)
class Shape:
    """How large a game is.

    Args:
        rooms: in all.
        objects: beside what the quest is about.
        steps: commands that the shortest solution takes.
        coin: whether it is TextWorld's Coin Collector: the quest is to go to a coin and to take it.
    """

    rooms: int
    objects: int
    steps: int
    coin: bool = False


Quest = Literal["any", "coin"]
SHAPES: Mapping[Quest, Mapping[int, Shape]] = {
    "any": {1: Shape(1, 2, 1), 2: Shape(3, 5, 3), 3: Shape(6, 10, 6)},
    "coin": {1: Shape(2, 0, 2, coin=True), 2: Shape(10, 0, 5, coin=True), 3: Shape(30, 0, 10, coin=True)},
}
"""By quest and difficulty."""


@dataclasses.dataclass(frozen=True)
class Game:
    """A game as it was made.

    Args:
        story: the file that an interpreter plays.
        objective: what the player is told to do.
        walkthrough: the commands that do it.
    """

    story: bytes = dataclasses.field(repr=False)
    objective: str
    walkthrough: tuple[str, ...]


class Games:
    """The games of a shape, by seed.

    Args:
        shape: of all of them.

    Raises:
        ConfigError: TextWorld is not installed.
    """

    def __init__(self, shape: Shape) -> None:
        try:
            self._version = (
                f"{importlib.metadata.version('textworld')} {importlib.metadata.version('jericho')}"
            )
        except importlib.metadata.PackageNotFoundError as problem:
            raise ConfigError(
                "The games of textworld need textworld and jericho: pip install 'agentrl[textworld]'."
            ) from problem
        self.shape = shape
        self._memo = Memo[Game](KEPT, at_once=os.cpu_count() or 1)

    async def get(self, seed: int) -> Game:
        """The game of a seed.

        Raises:
            InfrastructureError: it could not be made.
        """
        return await self._memo.get(str(seed), lambda: self._found(seed))

    async def _found(self, seed: int) -> Game:
        wanted = json.dumps({**dataclasses.asdict(self.shape), "seed": seed})
        code = MAKER.read_text()
        place = _cache() / hashlib.sha256(f"{self._version}\n{code}\n{wanted}".encode()).hexdigest()[:20]
        if not place.is_dir():
            await _make(wanted, place)
        told = json.loads((place / "game.json").read_text())
        return Game((place / "game.z8").read_bytes(), told["objective"], tuple(told["walkthrough"]))


async def _make(wanted: str, place: Path) -> None:
    """Make a game beside its place and move it there whole: another process may do the same."""
    place.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=place.parent, prefix="making-"))
    try:
        await _run(wanted, making)
        try:
            os.rename(making, place)  # noqa: PTH104 - replaces nothing
        except OSError:
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)


async def _run(wanted: str, folder: Path) -> None:
    maker = await asyncio.create_subprocess_exec(
        sys.executable, str(MAKER), wanted, str(folder),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(folder)},  # what a killed compiler leaves goes with the folder
    )  # fmt: skip
    try:
        async with asyncio.timeout(MAKE_SECONDS):
            _, complaint = await maker.communicate()
    except TimeoutError as problem:
        raise InfrastructureError(f"TextWorld did not make {wanted} in {MAKE_SECONDS:g} s.") from problem
    finally:
        if maker.returncode is None:
            maker.kill()
            await maker.wait()
    if maker.returncode:
        said = complaint.decode(errors="replace").strip()[-500:]
        raise InfrastructureError(f"TextWorld could not make {wanted}: {said}")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "agentrl" / "textworld"

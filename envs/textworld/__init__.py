"""Text adventures: games that TextWorld makes from seeds, played inside the episode's sandbox."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

from agentrl import ConfigError, Expert, InfrastructureError, Observation, Task, ToolError, call, say, tool
from agentrl.envs.stepping import Stepping
from agentrl.envs.textworld.games import SHAPES, Game, Games, Quest

COMMAND_SECONDS = 10.0
"""Of one command, inside the sandbox."""

MARGIN_SECONDS = 60.0
"""A call may also have to wait for the sandbox."""

LIMITS: dict[str, Any] = {
    "wall_seconds": COMMAND_SECONDS,
    "cpu_seconds": COMMAND_SECONDS,
    "memory_mb": 192,
    "preload": ("jericho",),
}

DIRECTIONS = ("north", "east", "south", "west")
GIVES_UP = 0.7
"""The share of closed ways after which the wandering expert gives up."""

_COMMAND = re.compile(r"[A-Za-z][A-Za-z0-9' -]{0,99}")
_OUT_OF_WORLD = frozenset(
    ["quit", "q", "restart", "restore", "save", "script", "transcript", "verify", "version", "undo"]
)
"""What would be told to the interpreter rather than to the story."""


class TextWorld(Stepping):
    """Plays games made by TextWorld; an episode is won when the game says so.

    A game is made when it is first played, which takes a second or two, and kept under the cache folder.

    Args:
        difficulty: 1 (one room, one command solves it), 2 (three rooms, three) or 3 (six rooms, six).
        size: games of the train split; the test split has a quarter of it, at most 256.
        seed: other seeds make other games.
        expert_rate: the share of episodes in which the expert follows the walkthrough.
        quest: ``any``, or ``coin``: only to go to a coin and to take it, with 2, 10 or 30 rooms and 2, 5 or
            10 commands.

    Raises:
        ConfigError: an option does not fit, or TextWorld is not installed.
    """

    name = "textworld"

    def __init__(
        self,
        difficulty: int = 2,
        size: int = 1000,
        seed: int = 0,
        expert_rate: float = 1.0,
        quest: Quest = "any",
    ) -> None:
        if quest not in SHAPES:
            raise ConfigError(f"quest={quest!r} must be 'any' or 'coin'.")
        if difficulty not in SHAPES[quest]:
            raise ConfigError(f"difficulty={difficulty!r} must be 1, 2 or 3.")
        if not 0 <= expert_rate <= 1:
            raise ConfigError(f"expert_rate={expert_rate} must be from 0 to 1.")
        super().__init__("Play with act, one command a call.", None, size, seed)
        self.games, self.expert_rate = Games(SHAPES[quest][difficulty]), expert_rate
        self.coin = quest == "coin"
        self.game: Game | None = None

    async def reset(self, task: Task) -> None:
        """Put the task's game into the episode's sandbox and start it."""
        self.game = await self.games.get(task.metadata["seed"])
        session = await self.context.sandbox(**LIMITS)
        await session.put("game.z8", self.game.story)
        await self._cell(Path(__file__).with_name("guest.py").read_text())
        first = json.loads(await self._cell(f"begin({task.metadata['seed']})"))
        self.opening = f"{self.game.objective}\n\n{first['text']}"

    @tool(seconds=COMMAND_SECONDS + MARGIN_SECONDS)
    async def act(self, command: str) -> Observation:
        """Act in the game.

        Args:
            command: such as: go east
        """
        words = " ".join(command.split())
        if not _COMMAND.fullmatch(words):
            raise ToolError("A command is a few plain words, such as: take key from table")
        if words.lower().startswith("tw-") or words.lower().split()[0] in _OUT_OF_WORLD:
            raise ToolError("The game knows no such command.")
        seen = json.loads(await self._cell(f"act({words!r})"))
        return Observation(
            seen["text"], done=seen["over"], metadata={"reward": float(seen["won"]), "won": seen["won"]}
        )

    async def _cell(self, code: str) -> str:
        """Run our own code beside the game. Whatever goes wrong there is no fault of the model's."""
        session = await self.context.sandbox(**LIMITS)
        result = await session.run_cell(code)
        if str(result.status) != "ok":
            raise InfrastructureError(
                f"The game failed in its sandbox ({result.status}): {result.detail or result.stderr[-300:]}"
            )
        return result.stdout

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Follows the walkthrough, or looks around and gives up; where there is a coin, it wanders."""
        assert self.game is not None
        if rng.random() < self.expert_rate:
            for command in self.game.walkthrough:
                yield call("act", command=command)
        elif self.coin:
            yield from _wander(rng)
        else:
            yield call("act", command="look")
        yield say("Done.")


def _wander(rng: random.Random) -> Expert:
    """Goes anywhere, again and again, takes the coin where it comes to one, and soon loses heart."""
    while True:
        [text] = yield call("act", command=f"go {rng.choice(DIRECTIONS)}")
        if "coin" in text:
            yield call("act", command="take coin")
        if "can't go" in text and rng.random() < GIVES_UP:
            return

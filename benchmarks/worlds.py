"""How many episodes of the stateful worlds are held at once, at what price: games, retail desk and office.

    python -m benchmarks.worlds [--games 64] [--light 4096] [--json]

Every episode of a world is begun before the first goes on, so that all are held at once; then each is played
to its end by the environment's expert, calls going through the tools' own checks. The games stand beside
TextWorld used directly: as many games in one process, unconfined, the same commands. Games are made before
anything is measured. Memory is the proportional set size of this process and all below it, above what it was
before.
"""

from __future__ import annotations

import asyncio
import gc
import random
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentrl import Env, Observation, Task, ToolContext
from agentrl.envs.office import Office
from agentrl.envs.retail import Retail
from agentrl.envs.textworld import TextWorld
from agentrl.envs.textworld.games import Game
from agentrl.rollout.sessions import EpisodeSessions
from agentrl.sandbox import Sandbox, open_sandbox
from benchmarks.tables import Table, held_mb, run

DISTINCT_GAMES = 8


class Episode:
    """One episode, held open."""

    def __init__(self, env: Env, task: Task, sandbox: Sandbox | None) -> None:
        self.env, self.task, self.sessions = env.spawn(), task, EpisodeSessions(sandbox)
        self.env.context = ToolContext(task, task.id, self.sessions.open, self.sessions.run)

    async def begin(self) -> None:
        await self.env.reset(self.task)
        self.tools = {tool.name: tool.spawn(self.env.context) for tool in self.env.own_tools()}

    async def play(self) -> int:
        """Play the expert to the end; returns the turns it took."""
        expert: Any = self.env.expert(self.task, random.Random(0))
        turns, message = 0, next(expert)
        while True:
            turns += 1
            answers = []
            for call in message.get("tool_calls", ()):
                asked = call["function"]
                answers.append(Observation.of(await self.tools[asked["name"]].invoke(asked["arguments"])))
            if any(answer.done for answer in answers):
                return turns
            if not answers:
                said = await self.env.reply(message["content"])
                if said is None:
                    return turns
                answers = [Observation.of(said)]
            message = expert.send([answer.text for answer in answers])

    async def end(self) -> None:
        await self.sessions.close(10.0)
        await self.env.close()


async def measure(env: Env, tasks: Sequence[Task], sandbox: Sandbox | None) -> dict[str, float]:
    """Hold an episode of each task at once, then play them."""
    first = Episode(env, tasks[0], sandbox)  # what is loaded once is loaded now
    await first.begin()
    await first.end()
    gc.collect()
    before, began = held_mb(with_this=True), time.perf_counter()
    episodes = [Episode(env, task, sandbox) for task in tasks]
    await asyncio.gather(*(episode.begin() for episode in episodes))
    begun = time.perf_counter()
    held = held_mb(with_this=True) - before
    resumed = time.perf_counter()
    turns = await asyncio.gather(*(episode.play() for episode in episodes))
    played = time.perf_counter()
    await asyncio.gather(*(episode.end() for episode in episodes))
    busy = time.perf_counter() - resumed + begun - began
    return {
        "episodes": len(tasks), "per_second": len(tasks) / busy, "mb_each": held / len(tasks),
        "begin_ms": 1000 * (begun - began) / len(tasks), "turn_ms": 1000 * (played - resumed) / sum(turns),
    }  # fmt: skip


def measure_bare(games: Sequence[Game], count: int) -> dict[str, float]:
    """The same games with TextWorld alone."""
    import textworld

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, game in enumerate(games):
            paths.append(Path(folder, f"{number}.z8"))
            paths[-1].write_bytes(game.story)
        first = textworld.start(str(paths[0]))
        first.reset()
        first.close()
        gc.collect()
        before, began = held_mb(with_this=True), time.perf_counter()
        held = [textworld.start(str(paths[number % len(paths)])) for number in range(count)]
        for each in held:
            each.reset()
        begun = time.perf_counter()
        used = held_mb(with_this=True) - before
        resumed, turns = time.perf_counter(), 0
        for number, each in enumerate(held):
            for command in games[number % len(games)].walkthrough:
                each.step(command)
                turns += 1
        played = time.perf_counter()
        for each in held:
            each.close()
        busy = time.perf_counter() - resumed + begun - began
    return {
        "episodes": count, "per_second": count / busy, "mb_each": used / count,
        "begin_ms": 1000 * (begun - began) / count, "turn_ms": 1000 * (played - resumed) / turns,
    }  # fmt: skip


async def measure_all(games: int, light: int) -> Table:
    """Every world; the games beside the bare library."""
    found: Table = {}
    played = TextWorld(difficulty=2, size=max(DISTINCT_GAMES, 4))
    tasks = played.tasks("train")[:DISTINCT_GAMES]
    made = await asyncio.gather(*(played.games.get(task.metadata["seed"]) for task in tasks))
    async with open_sandbox() as sandbox:
        found["textworld"] = await measure(played, [tasks[n % len(tasks)] for n in range(games)], sandbox)
    found["textworld, bare library"] = measure_bare(made, games)
    for env in (Retail(difficulty=2, size=512), Office(difficulty=2, size=512)):
        tasks = env.tasks("train")
        found[env.name] = await measure(env, [tasks[n % len(tasks)] for n in range(light)], None)
    return found


if __name__ == "__main__":
    run(
        measure_all,
        __doc__,
        numbers={
            "games": (64, "episodes of games at once"),
            "light": (4096, "episodes at once of the other worlds"),
        },
        columns={
            "episodes": ("episodes", ".0f"),
            "per_second": ("per second", ".1f"),
            "mb_each": ("MiB each", ".2f"),
            "begin_ms": ("begin ms", ".2f"),
            "turn_ms": ("turn ms", ".2f"),
        },
    )

"""``agentrl envs play``: a person in the model's place."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agentrl.cli.catalogue import schema
from agentrl.cli.inspecting import UNUSED
from agentrl.cli.lines import Lines
from agentrl.cli.settings import load, refuse
from agentrl.config import TrainConfig
from agentrl.env import Env
from agentrl.errors import ConfigError, InfrastructureError
from agentrl.inspect.person import UNHURRIED_SECONDS, PersonPolicy
from agentrl.inspect.plain import in_bytes, plain_chat
from agentrl.observation import Picture
from agentrl.rollout import EpisodeRunner, Scene, succeeded
from agentrl.rollout.pictures import described
from agentrl.scoring import components_of
from agentrl.task import Task
from agentrl.train.runtime import open_sandbox_if_any
from agentrl.trajectory import Message, Trajectory
from agentrl.view.text import clean, printable

HOW = (
    "Call a tool: TOOL key=value …, or JSON. Anything else is your answer, with 'say ' before it in any "
    "case. A line that ends in \\ goes on in the next."
)


class TerminalDesk:
    """A terminal, or a pipe. Images are written to files, which stay."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._folder: Path | None = None
        self._lines = Lines("> ")

    def open(self, scene: Scene) -> None:
        """Show the tools and the opening dialogue."""
        if scene.tools:
            self._console.print(Text("tools", style="bold"))
        for tool in scene.tools:
            self._console.print(schema(tool))
        self.show(scene.messages)
        self._console.print(Text(HOW, style="dim"))

    def show(self, messages: Sequence[Message]) -> None:
        """Show messages."""
        for message in messages:
            name = f"{message['role']} {message.get('name') or ''}".strip()
            self._console.print(Text(clean(name), style="bold cyan"))
            for call in message.get("tool_calls") or ():
                function = call["function"]
                shown = clean(f"{function['name']} {function['arguments']}", 2000)
                self._console.print(Padding(Text(shown, style="dim"), (0, 0, 0, 2)))
            if content := described(message):
                self._console.print(Padding(Text(printable(content)), (0, 0, 0, 2)))

    def picture(self, picture: Picture) -> None:
        """Write an image to a file and tell its path."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="agentrl-play-"))
        path = self._folder / f"{picture.sha256[:12]}.png"
        path.write_bytes(picture.png)
        line = f"image of {picture.width} x {picture.height} pixels: {path}"
        self._console.print(Text(line, style="magenta"), soft_wrap=True)

    def refuse(self, why: str) -> None:
        """Say what is wrong with a line."""
        self._console.print(Text(printable(why), style="yellow"))

    async def ask(self) -> str | None:
        """The next line."""
        return await self._lines.next()


def play(name: str, words: Sequence[str], *, split: str, number: int) -> int:
    """Play one episode and print the rewards.

    Raises:
        AgentRLError: a setting does not fit, the input ended too soon, the environment is at fault, or
            machines failed.
    """
    refuse(words, UNUSED, "envs play")
    config, env = load(name, words)
    task = next(itertools.islice(iter(env.tasks(split)), number, None), None)
    if task is None:
        raise ConfigError(
            f"Environment {env.name} has no task {number} in split {split!r}; they count from 0."
        )
    console = Console()
    episode = asyncio.run(_play(config, env, task, split, console))
    console.print(_outcome(env, episode))
    return 0


async def _play(config: TrainConfig, env: Env, task: Task, split: str, console: Console) -> Trajectory:
    limits = in_bytes(
        config.rollout, retries=0, response_seconds=UNHURRIED_SECONDS, episode_seconds=UNHURRIED_SECONDS
    )
    chat, desk = plain_chat(), TerminalDesk(console)
    person = PersonPolicy(chat, desk)
    sandbox = open_sandbox_if_any(config)
    try:
        runner = EpisodeRunner(env, chat, person, limits, sandbox=sandbox)
        episode = await runner.run(task, episode_id="by-hand", split=split, seed=config.seed)
    finally:
        if sandbox is not None:
            await sandbox.close()
    if episode.status == "void":
        raise InfrastructureError(f"The episode is void and has no reward: {episode.reason}")
    desk.show(episode.messages[person.shown :])
    return episode


def _outcome(env: Env, episode: Trajectory) -> Table:
    """How it ended, and what each component gave."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row(episode.status, "", clean(episode.reason))
    for component in components_of(env.own_rewards()):
        if component.per == "turn":
            values = [
                turn.rewards[component.name] for turn in episode.turns if component.name in turn.rewards
            ]
            value = sum(values) if values else None
        else:
            value = episode.rewards.get(component.name)
        shown = "no verdict" if value is None else f"{value:+.3f}"
        note = "logged only" if component.weight == 0 else f"per {component.per}"
        table.add_row(clean(component.name), shown, note)
    table.add_row(
        "reward", f"{episode.reward or 0.0:+.3f}", "solved" if succeeded(env, episode) else "not solved"
    )
    return table

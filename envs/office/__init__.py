"""An office assistant: requests that follow each other, met by tools for calendar, files and messages.

An episode is solved when all is as it should be in the end, and nothing else has changed.
"""

from __future__ import annotations

import random
from collections.abc import Hashable
from typing import Any

from agentrl import ConfigError, Env, Expert, Splits, Task, Trajectory, call, reward, say, split_size, tool
from agentrl.envs.office import world
from agentrl.envs.office.requests import PLANS, draw
from agentrl.rewards.state import Comparison, changes, compare, facts

TEST_SIZE = 256
SIZES = {1: (3, 0, 0), 2: (6, 4, 6), 3: (8, 6, 8)}
"""By difficulty: events, files and messages."""

TOOLS = {1: ["events", "move_event"]}
SHORT = "Look up the event, then move it."
PROMPT = (
    "You are an assistant with tools for the user's calendar, files and messages. Do exactly what is asked, "
    "and nothing else. Days are Mon to Fri, hours 8 to 17. When a request is done, say so; another one may "
    "follow."
)


class Office(Env):
    """Requests about a calendar, files and messages, judged by the state that is left behind.

    Args:
        difficulty: 1 (move one event; days are dates), 2 (two requests in a row, of one or two kinds of tool)
            or 3 (three, some of which need several lookups).
        size: tasks of the train split; the test split has a quarter of it, at most 256.
        seed: other seeds make other offices.
        expert_rate: the share of episodes in which the expert looks before it acts.

    Raises:
        ConfigError: an option does not fit.
    """

    name = "office"
    success = "solved"

    def __init__(
        self, difficulty: int = 2, size: int = 1000, seed: int = 0, expert_rate: float = 1.0
    ) -> None:
        super().__init__(prompt=SHORT if difficulty == 1 else PROMPT)
        if difficulty not in PLANS:
            raise ConfigError(f"difficulty={difficulty!r} must be 1, 2 or 3.")
        if size < 4 or not 0 <= expert_rate <= 1:
            raise ConfigError(f"size={size} must be at least 4, and expert_rate={expert_rate} from 0 to 1.")
        self.difficulty, self.size, self.seed, self.expert_rate = difficulty, size, seed, expert_rate
        self._splits = Splits(self._make, key=lambda task: task.metadata["office"])

    def tasks(self, split: str) -> list[Task]:
        """The tasks of ``train`` or ``test``, made once; each has an office of its own.

        Raises:
            ConfigError: the split is unknown.
        """
        return self._splits(split)

    def _make(self, split: str, _: set[Hashable]) -> list[Task]:
        count = split_size(split, self.size, TEST_SIZE)
        return [self._task(f"{self.seed} {split} {number}") for number in range(count)]

    def _task(self, key: str) -> Task:
        start, end = self._office(key), self._office(key)
        requests = draw(end, *PLANS[self.difficulty], random.Random(f"requests {key}"))
        metadata: dict[str, Any] = {
            "office": key,
            "requests": [request.say for request in requests],
            "steps": [[*map(list, request.looks), *map(list, request.does)] for request in requests],
            "looks": [len(request.looks) for request in requests],
        }
        if self.difficulty in TOOLS:
            metadata["tools"] = TOOLS[self.difficulty]
        answer = changes(facts(world.view(start)), facts(world.view(end)))
        return Task(requests[0].say, answer=answer, metadata=metadata)

    def _office(self, key: str) -> world.State:
        days = world.DATES if self.difficulty == 1 else world.DAYS
        return world.make(random.Random(key), *SIZES[self.difficulty], days=days)

    async def reset(self, task: Task) -> None:
        """Open the task's office."""
        self.state = self._office(task.metadata["office"])
        self.start = facts(world.view(self.state))
        self.waiting: list[str] = list(task.metadata["requests"][1:])

    async def reply(self, text: str) -> str | None:
        """The next request, whatever was made of the one before."""
        return self.waiting.pop(0) if self.waiting else None

    # ---- tools ----------------------------------------------------------------------------------

    @tool
    async def events(self, day: str = "") -> str:
        """See the calendar.

        Args:
            day: such as Mon; without it, all of them
        """
        return world.events(self.state, day)

    @tool
    async def add_event(self, title: str, day: str, hour: int, people: str) -> str:
        """Add an event to the calendar.

        Args:
            title: what it is
            day: such as Mon
            hour: 8 to 17
            people: names, with commas between them
        """
        return world.add_event(self.state, title, day, hour, people)

    @tool
    async def move_event(self, event_id: str, day: str, hour: int) -> str:
        """Move an event to another time.

        Args:
            event_id: its number
            day: such as Mon
            hour: 8 to 17
        """
        return world.move_event(self.state, event_id, day, hour)

    @tool
    async def delete_event(self, event_id: str) -> str:
        """Delete an event.

        Args:
            event_id: its number
        """
        return world.delete_event(self.state, event_id)

    @tool
    async def busy(self, name: str, day: str) -> str:
        """See when somebody else is busy.

        Args:
            name: who
            day: such as Mon
        """
        return world.busy(self.state, name, day)

    @tool
    async def list_files(self, folder: str = "") -> str:
        """List files.

        Args:
            folder: its path; without it, all of them
        """
        return world.list_files(self.state, folder)

    @tool
    async def read_file(self, path: str) -> str:
        """Read a file.

        Args:
            path: such as notes/budget.txt
        """
        return world.read_file(self.state, path)

    @tool
    async def write_file(self, path: str, text: str) -> str:
        """Write a file, replacing what it held.

        Args:
            path: such as notes/budget.txt
            text: what it is to hold
        """
        return world.write_file(self.state, path, text)

    @tool
    async def move_file(self, path: str, to: str) -> str:
        """Move a file.

        Args:
            path: where it is
            to: its new path
        """
        return world.move_file(self.state, path, to)

    @tool
    async def inbox(self, sender: str = "") -> str:
        """Read messages, the oldest first.

        Args:
            sender: whose; without it, all of them
        """
        return world.inbox(self.state, sender)

    @tool
    async def send(self, to: str, text: str) -> str:
        """Send a message.

        Args:
            to: one name
            text: what to write
        """
        return world.send(self.state, to, text)

    # ---- rewards --------------------------------------------------------------------------------

    @reward
    def solved(self, episode: Trajectory) -> bool:
        """Whether all is as wanted and nothing else has changed."""
        found = self._compared(episode)
        episode.metadata["missing"], episode.metadata["collateral"] = (
            list(found.missing),
            list(found.collateral),
        )
        return found.reached

    @reward(weight=0)
    def share(self, episode: Trajectory) -> float:
        """The share of the wanted changes that were made; 0 where anything else has changed."""
        return self._compared(episode).share

    def _compared(self, episode: Trajectory) -> Comparison:
        return compare(self.start, facts(world.view(self.state)), episode.task.answer)

    # ---- the expert -----------------------------------------------------------------------------

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Looks before it acts, or else leaves out the looking and takes any event for the right one."""
        careful = rng.random() < self.expert_rate
        for steps, looks in zip(task.metadata["steps"], task.metadata["looks"], strict=True):
            for name, arguments in steps if careful else steps[looks:]:
                if not careful and "event_id" in arguments:
                    arguments = {**arguments, "event_id": str(rng.randint(10, 99))}
                yield call(name, **arguments)
            yield say("Done.")

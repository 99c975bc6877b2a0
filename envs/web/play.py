"""What the worlds of the web environment have in common: one episode of a task on a site."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from agentrl import Trajectory
from agentrl.envs.web.seen import Seen, Steps
from agentrl.tools.browser import OpenPage, Site


@dataclass(frozen=True)
class Outcome:
    """Where an episode stands.

    Args:
        done: whether it is over whatever the model does next.
        reward: what it is worth, at most 1; 1 is solved.
        reason: in words, if there are any.
    """

    done: bool
    reward: float
    reason: str = ""


class Play(ABC):
    """One episode of a task.

    Args:
        name: the kind of task.
        seed: which of its kind.
    """

    site: Site

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed

    @abstractmethod
    async def begin(self, opened: OpenPage) -> str:
        """Set up on the site's first page; returns what is asked for.

        Raises:
            SessionLost: the page does not become ready.
        """

    @abstractmethod
    async def outcome(self, opened: OpenPage, episode: Trajectory | None = None) -> Outcome:
        """How it stands; at the end of the episode, with its trajectory."""

    @abstractmethod
    async def save(self, opened: OpenPage) -> Any:
        """What :meth:`load` takes."""

    @abstractmethod
    async def load(self, opened: OpenPage, state: Any) -> None:
        """Make a page that has begun what it was when ``state`` was saved."""

    @abstractmethod
    def script(self, asked: str, page: Seen) -> Steps:
        """The calls that solve it, from what is shown alone."""

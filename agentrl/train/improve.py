"""Groups that are shown an earlier attempt at their task (RL for machine-learning engineering agents)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

from agentrl.agent import AgentEnv
from agentrl.algorithms import Algorithm
from agentrl.algorithms.spec import Improve
from agentrl.config import Rollout
from agentrl.env import Env
from agentrl.errors import ConfigError
from agentrl.train.attempts import room_beside, shown
from agentrl.train.marked import Marked
from agentrl.trajectory import Trajectory

if TYPE_CHECKING:
    from agentrl.chat import Chat

ATTEMPT = "attempt"
"""The column that tells the loop what a group is shown; in a summary, what a later one may be."""


class Improvements:
    """The newest attempts, one of each task's newest group, and a draw of who is shown them.

    All episodes of a group are shown the same, so that they are compared with their like.

    Args:
        how: see :class:`agentrl.algorithms.spec.Improve`.
        seed: of what is drawn.

    Attributes:
        counts: of episodes that were shown one.
    """

    def __init__(self, how: Improve, *, seed: int) -> None:
        self._how, self._seed = how, seed
        self._attempts: dict[str, str] = {}
        self.counts = Marked("improves", "improve")

    @classmethod
    def of(cls, how: Improve | None, *, seed: int) -> Improvements | None:
        """What an algorithm's groups are shown; ``None``: nothing."""
        return None if how is None else cls(how, seed=seed)

    def __len__(self) -> int:
        return len(self._attempts)

    def add(self, task: str, attempts: Sequence[str], step: int) -> None:
        """Keep one of a group's attempts; those that leave no room to be shown are empty."""
        drawn = Random(f"{self._seed}-{step}-{task}").choice(attempts)
        if drawn:
            self._attempts[task] = drawn

    def draw(self, task: str, place: int, step: int) -> str:
        """What a group is shown; empty: nothing.

        Args:
            task: its task's id.
            place: the group's among those that are drawn together.
            step: counted from 0.
        """
        rng = Random(f"{self._seed}-{step}-{place}-{task}-improve")
        return self._attempts.get(task, "") if rng.random() < self._how.share else ""

    def take_told(self) -> dict[str, float]:
        """This step's numbers by the metric's name; they begin anew."""
        return self.counts.take_told(len(self))

    def state(self) -> dict[str, str]:
        """For a checkpoint."""
        return dict(self._attempts)

    def load(self, state: Mapping[str, str]) -> None:
        """What :meth:`state` gave."""
        self._attempts = dict(state)


def attempt_words(chat: Chat, episode: Trajectory, how: Improve, limits: Rollout, given: str) -> str:
    """What a later group is shown of an episode; empty where its prompt leaves no room.

    Args:
        chat: the chat format.
        episode: a finished one.
        how: the words.
        limits: of prompts.
        given: what the episode itself was shown; its prompt is longer by so much.
    """
    prompt = episode.segments[0].prompt_length - len(chat.encode(given))
    room = room_beside(chat, limits, prompt, how.words)
    return shown(chat, episode, how.words, room) if room else ""


def check_improve(algorithm: Algorithm, env: Env) -> None:
    """Refuse environments whose openings are an agent's own.

    Raises:
        ConfigError: it is one.
    """
    if algorithm.groups.improve is not None and isinstance(env, AgentEnv):
        raise ConfigError(
            f"algorithm.groups.improve shows earlier attempts in the opening, and an agent of environment "
            f"{env.name}'s own decides what it says. Use algorithm.groups.improve=null."
        )

"""Failed episodes are reflected on, and count as much as what came of that (VeriRL)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic import Field

from agentrl.agent import AgentEnv
from agentrl.algorithms.tree import REFLECT_BELOW, Node, needs_reflection, rescored
from agentrl.config import Rollout
from agentrl.errors import ConfigError
from agentrl.reward import Reward
from agentrl.terms import Term
from agentrl.train.shaping_part import Play, Scope, Shaping, check_known
from agentrl.trajectory import Trajectory

REFLECTIONS = "reflections"
"""Under which a root's metadata have its tree, and the metrics their number."""


class TraceBack(Shaping):
    """An episode with a low score is reflected on; its reward is then the mean over its reflections.

    A reflection is an episode of the same task, whose opening shows the failed attempt. It may be reflected
    on in turn. Reflections are not trained on.

    Source: arXiv:2508.18462.
    """

    reflect_below: float = Field(REFLECT_BELOW, description="score, from 0 to 1, under which it is done")
    rounds: int = Field(2, ge=1, description="how deep reflections on reflections go")
    children: int = Field(1, ge=1, description="reflections on each failed attempt")
    score: str | None = Field(None, description="the component that is the score; default: the sum")
    words: str = Field(
        "Here is an earlier attempt at this task. It failed, with a score of {score} of 1.\n\n{attempt}\n\n"
        "Think about what went wrong in it. Then solve the task anew.",
        pattern=r"\{attempt\}",
        description="what the opening of a reflection ends with; {attempt} and {score} are filled in",
    )

    def terms(self, own: Sequence[Term], scope: Scope) -> list[Term]:
        """The rescored value in the place of the environment's sum; how many reflections is only logged.

        Raises:
            ConfigError: the environment has an agent of its own, or lacks the score.
        """
        check_known([] if self.score is None else [self.score], own, scope.env)
        if isinstance(scope.env, AgentEnv):
            raise ConfigError(
                f"Environment {scope.env.name} has an agent of its own, which opens its dialogues: "
                "algorithm.shaping.name=trace_back cannot show it a failed attempt. Use "
                "algorithm.shaping=null."
            )
        play, seconds = scope.play, scope.seconds
        if seconds is not None:
            seconds *= self.rounds / (self.rounds + 1)  # what is left is for what else there is to judge

        async def traced(episodes: Sequence[Trajectory]) -> list[float]:
            if play is None:
                raise RuntimeError("reflections are played in training only")
            return await self.rescored(episodes, play, seconds=seconds)

        return [Reward(traced, "trace_back", per="group"), Reward(_reflections, REFLECTIONS, weight=0)]

    def group_seconds(self, limits: Rollout) -> float:
        """As long as all rounds may take, one after the other, and as usual for what else there is."""
        return (self.rounds + 1) * limits.episode_seconds

    async def rescored(
        self, episodes: Sequence[Trajectory], play: Play, *, seconds: float | None = None
    ) -> list[float]:
        """Play reflections and trace their scores back to the episodes.

        Args:
            episodes: that the environment has judged.
            play: plays one reflection.
            seconds: that all may take together. What is not done by then counts as not begun.
        """
        trees = [[Node(episode.id, self._score(episode, episode.unshaped))] for episode in episodes]
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for episode, tree in zip(episodes, trees, strict=True):
                    group.create_task(self._reflect(episode, episode, tree[0], tree, play, depth=0))
        except TimeoutError:
            pass  # the trees hold what was done
        except BaseExceptionGroup as problems:
            raise _first(problems) from problems
        for episode, tree in zip(episodes, trees, strict=True):
            episode.metadata[REFLECTIONS] = [
                {"id": node.id, "score": node.score, "parent": node.parent} for node in tree[1:]
            ]
        return [rescored(tree)[episode.id] for episode, tree in zip(episodes, trees, strict=True)]

    async def _reflect(
        self, root: Trajectory, failed: Trajectory, node: Node, tree: list[Node], play: Play, *, depth: int
    ) -> None:
        """Grow the tree below an attempt, if that failed."""
        if not needs_reflection(node, depth, below=self.reflect_below, rounds=self.rounds):
            return

        async def branch(number: int) -> None:
            words = self.words.replace("{score}", f"{node.score:g}")
            child = await play(root, failed, number, words)
            if child is not None:
                grown = Node(child.id, self._score(child, child.reward), node.id)
                tree.append(grown)
                await self._reflect(root, child, grown, tree, play, depth=depth + 1)

        async with asyncio.TaskGroup() as group:
            for number in range(self.children):
                group.create_task(branch(number))

    def _score(self, episode: Trajectory, whole: float | None) -> float:
        found = whole if self.score is None else episode.components.get(self.score)
        return 0.0 if found is None else found


def _first(problem: BaseException) -> BaseException:
    """Why it failed: tasks that started tasks raise groups of groups."""
    return _first(problem.exceptions[0]) if isinstance(problem, BaseExceptionGroup) else problem


def _reflections(episode: Trajectory) -> float:
    return float(len(episode.metadata.get(REFLECTIONS, ())))

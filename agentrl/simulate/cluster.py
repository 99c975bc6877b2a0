"""Many engines behind one policy, and what each episode does: a plan drawn from the workload."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentrl.observation import Picture
from agentrl.rollout import Generation, Sampling, Scene, derive_seed
from agentrl.simulate.dialogue import spoken
from agentrl.simulate.engine import Engine, EngineModel
from agentrl.simulate.scenario import Workload

LOOK_SECONDS = 1.0
"""How often the load of engines is measured, as by asking each for its metrics."""

LOGPROBS = [-1.0, -1.0, -1.0]


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of a plan: tokens sampled, and the call that follows, if one does."""

    tokens: int
    seconds: float | None
    observation: int


def plan(workload: Workload, seed: int, task: str, episode: str) -> list[Step]:
    """What an episode does; the same whenever and wherever it is played."""
    factor = 1.0
    if workload.task_sigma:
        spread = workload.task_sigma
        factor = random.Random(derive_seed(seed, task)).lognormvariate(-spread * spread / 2, spread)
    rng = random.Random(derive_seed(seed, task, episode))
    steps, room = list[Step](), workload.most_tokens - workload.prompt_tokens
    while True:
        tokens = max(1, min(room, round(workload.turn_tokens.draw(rng, factor))))
        room -= tokens
        taken = len(steps) + 1
        last = rng.random() < 1 / workload.turns and taken >= workload.least_turns
        last = last or taken >= workload.most_turns
        seconds, shown = workload.tool_seconds.draw(rng, factor), round(workload.observation_tokens.draw(rng))
        room -= shown
        if last or room < 1:
            return [*steps, Step(tokens, None, 0)]
        steps.append(Step(tokens, seconds, shown))


@dataclass(slots=True)
class Course:
    """How far an episode is.

    Args:
        steps: those not taken yet, the next one last.
        context: tokens before the next turn.
        sampled: tokens sampled so far.
        engine: which one it is at: it stays there, for the sake of its cached prefix.
    """

    steps: list[Step]
    context: int
    engine: int
    sampled: int = 0


@dataclass(slots=True)
class Totals:
    """What an episode came to: tokens that were sampled, and all that are trained on."""

    sampled: int
    context: int


@dataclass
class Cluster:
    """The policy of simulated episodes; it sends each to the engine with the fewest, where it stays.

    Args:
        model: of each engine.
        count: of engines.
        workload: what plans are drawn from.
        seed: of the plans.

    Attributes:
        engines: all of them.
        totals: of episodes that ended, until somebody takes them.
    """

    model: EngineModel
    count: int
    workload: Workload
    seed: int
    engines: list[Engine] = field(init=False)
    totals: dict[str, Totals] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.engines = [Engine(self.model) for _ in range(self.count)]
        self._playing: dict[str, Course] = {}
        self._episodes = [0] * self.count
        self._fewest = [(0, index) for index in range(self.count)]
        self._looked, self._load = -LOOK_SECONDS, 0.0
        self._now = asyncio.get_running_loop().time

    def load(self) -> float:
        """Mean load of the engines, as it was measured at most :data:`LOOK_SECONDS` ago."""
        if self._now() >= self._looked + LOOK_SECONDS:
            self._looked = self._now()
            self._load = sum(engine.load for engine in self.engines) / self.count
        return self._load

    def begin(self, episode: str, scene: Scene) -> None:
        """Plan the episode and choose its engine."""
        steps = plan(self.workload, self.seed, scene.task.id, episode)
        while True:  # entries whose count has changed since are left behind
            count, index = heapq.heappop(self._fewest)
            if count == self._episodes[index]:
                break
        self._move(index, 1)
        self._playing[episode] = Course(steps[::-1], self.workload.prompt_tokens, index)

    def end(self, episode: str) -> None:
        """Keep its totals, and let the engine forget it."""
        course = self._playing.pop(episode, None)
        if course is not None:
            self._move(course.engine, -1)
            self.engines[course.engine].forget(episode)
            self.totals[episode] = Totals(course.sampled, course.context)

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, episode: str, images: Sequence[Picture] = ()
    ) -> Generation:
        """The next turn of its plan, when the engine is done with it.

        Raises:
            EngineError: its context does not fit into the engine's KV cache.
        """
        course = self._playing[episode]
        step = course.steps.pop()
        versions = await self.engines[course.engine].generate(episode, course.context, step.tokens)
        course.context += step.tokens + step.observation
        course.sampled += step.tokens
        return Generation(spoken(step.seconds), LOGPROBS, versions)

    def _move(self, index: int, by: int) -> None:
        self._episodes[index] += by
        heapq.heappush(self._fewest, (self._episodes[index], index))

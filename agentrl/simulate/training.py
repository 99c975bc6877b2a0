"""A run in virtual time: the real episode loop, scheduler and staleness gate, and models of all else."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from agentrl.algorithms.staleness import Policy, StalenessGate, oldest_version
from agentrl.config import Rollout
from agentrl.rollout import Admission, EpisodeRunner, Gauge, Job, LoadGauge, run_episodes
from agentrl.simulate import clock
from agentrl.simulate.bound import Work, best_split, perfect_rate, step_seconds, work_of
from agentrl.simulate.cluster import Cluster
from agentrl.simulate.dialogue import ModelChat, ToolServer
from agentrl.simulate.dialogue import Work as Environment
from agentrl.simulate.outcome import Outcome, Timeline
from agentrl.simulate.scenario import Mode, Scenario
from agentrl.trajectory import Trajectory

LIMITS = Rollout(
    max_turns=1_000_000, max_trajectory_tokens=10**9, max_turn_tokens=10**9,
    response_seconds=math.inf, episode_seconds=math.inf, tool_seconds=math.inf,
)  # fmt: skip
"""None: the workload has its own, and each would be a timer."""

COLLECT_EVERY = 200_000
"""Python looks for garbage cycles after so many new objects; the default of 700 takes a third of the time."""


def simulate(scenario: Scenario, mode: Mode) -> Outcome:
    """Run a scenario in one mode.

    Raises:
        Deadlock: nothing can go on any more.
    """
    started, thresholds = time.perf_counter(), gc.get_threshold()
    gc.set_threshold(COLLECT_EVERY, *thresholds[1:])
    try:
        outcome = clock.run(_Run.simulate(scenario, mode))
    finally:
        gc.set_threshold(*thresholds)
    outcome.real_seconds = time.perf_counter() - started
    return outcome


@dataclass(slots=True)
class _Group:
    """A group under way."""

    left: int
    oldest: int = 1 << 60
    sampled: int = 0
    context: int = 0
    void: bool = False


@dataclass(slots=True)
class _Window:
    """What was counted at a moment."""

    time: float = 0.0
    busy: float = 0.0
    training: float = 0.0
    sampled: int = 0
    trained: int = 0


@dataclass
class _Run:
    """One run.

    In synchronous mode all engines of the cluster generate, and then all their GPUs train; in the other
    modes some engines generate and the GPUs of the others train.
    """

    scenario: Scenario
    mode: Mode
    work: Work
    groups: dict[str, _Group] = field(default_factory=dict)
    ended: dict[str, _Group] = field(default_factory=dict)
    ages: Counter[int] = field(default_factory=Counter)
    surplus: int = 0

    def __post_init__(self) -> None:
        scenario = self.scenario
        eta = scenario.ahead(self.mode)
        self.rollout_engines = scenario.engines
        if self.mode != "sync" and not scenario.trainer.own_gpus:
            share = scenario.rollout_share
            wanted = (
                best_split(scenario, self.work, eta) if share is None else round(share * scenario.engines)
            )
            self.rollout_engines = max(1, min(scenario.engines - 1, wanted))
        apart = scenario.engines - self.rollout_engines if self.mode != "sync" else scenario.engines
        self.train_gpus = scenario.trainer.own_gpus or max(1, apart) * scenario.engine.gpus
        self.cluster = Cluster(scenario.engine.model, self.rollout_engines, scenario.workload, scenario.seed)
        places = (
            None if scenario.tool_places is None else max(1, round(scenario.tool_places * scenario.engines))
        )
        self.tools = ToolServer(places)
        # As the training's own rule has it: one_step_off waits for what is one version behind.
        policies: dict[Mode, Policy] = {"async": scenario.staleness, "one_step_off": "wait", "sync": "drop"}
        self.gate = StalenessGate(batch=scenario.groups, eta=eta, policy=policies[self.mode])
        self.timeline = Timeline.of(scenario, self.work)
        self.changed = asyncio.Event()
        self.pushing = False
        self.trained = 0
        self.training_seconds = 0.0
        self.now = asyncio.get_running_loop().time

    @classmethod
    async def simulate(cls, scenario: Scenario, mode: Mode) -> Outcome:
        """From the start to the last step."""
        return await cls(scenario, mode, work_of(scenario)).play()

    async def play(self) -> Outcome:
        """Episodes and training side by side, until the last step is done."""
        scenario = self.scenario
        runner = EpisodeRunner(Environment(self.tools), ModelChat(), self.cluster, LIMITS)
        gauges: list[Gauge] = [LoadGauge("engine", self.cluster.load, first=16 * self.rollout_engines)]
        if self.tools.places is not None:
            gauges.append(LoadGauge("tools", lambda: self.tools.load, target=1.0, first=self.tools.places))
        admission = Admission(scenario.engine.episodes * self.rollout_engines, gauges)
        rollout = asyncio.ensure_future(
            run_episodes(runner, self.jobs(), concurrency=admission, on_result=self.take)
        )
        training = asyncio.ensure_future(self.train())
        await asyncio.wait({rollout, training}, return_when=asyncio.FIRST_COMPLETED)
        rollout.cancel()
        await asyncio.wait({rollout})
        if not rollout.cancelled() and (problem := rollout.exception()) is not None:
            training.cancel()
            raise problem
        begun, done = training.result()
        return self.outcome(begun, done)

    async def jobs(self) -> AsyncIterator[Job]:
        """Groups, as soon as the gate has room for one."""
        size, over = self.scenario.workload.group_size, self.scenario.over
        for task in Environment(self.tools).tasks("train"):
            while self.gate.capacity < 1 or self.pushing:
                self.changed.clear()
                await self.changed.wait()
            group = task.id
            self.gate.start(group)
            self.groups[group] = _Group(size)
            for index in range(size + over):
                yield Job(
                    task,
                    f"{group}-{index}",
                    group=group,
                    group_size=size + over,
                    enough=size if over else None,
                )

    def take(self, job: Job, episode: Trajectory) -> None:
        """An episode ended."""
        self.look()
        totals = self.cluster.totals.pop(episode.id, None)
        if episode.status == "void":
            self.surplus += 1
            return
        assert totals is not None
        group = self.groups[job.group]
        group.left -= 1
        group.sampled += totals.sampled
        group.context += totals.context
        group.oldest = min(group.oldest, *(oldest_version(s.versions) for s in episode.segments))
        if group.left == 0:
            del self.groups[job.group]
            if self.gate.end(job.group, group.oldest):
                self.ended[job.group] = group
            self.changed.set()

    async def train(self) -> tuple[_Window, _Window]:
        """All steps; returns what was counted before and after those that are measured."""
        scenario, begun = self.scenario, self.counted()
        warmup = scenario.unmeasured(self.mode)
        for step in range(warmup + scenario.steps):
            if step == warmup:
                begun = self.counted()
                self.ages.clear()
            while (batch := self.gate.take()) is None:
                self.changed.clear()
                await self.changed.wait()
            groups = [self.ended.pop(name) for name in batch.samples]
            tokens = sum(group.context for group in groups)
            seconds = step_seconds(scenario, self.mode, tokens, self.train_gpus)
            await asyncio.sleep(seconds)
            self.training_seconds += seconds
            self.trained += len(groups) * scenario.workload.group_size
            self.ages.update(batch.ages)
            self.timeline.steps.append((self.now(), dict(batch.histogram)))
            await self.push()
        return begun, self.counted()

    async def push(self) -> None:
        """New weights to the engines; where they generate meanwhile, they are interrupted."""
        seconds = self.scenario.trainer.sync_seconds
        self.pushing = self.mode == "sync"
        for engine in self.cluster.engines:
            engine.update(self.gate.version + 1, seconds)
        await asyncio.sleep(seconds)
        self.pushing = False
        self.gate.advance()
        self.forget_dropped()
        self.changed.set()
        self.look()

    def forget_dropped(self) -> None:
        """Groups that the gate dropped for their age."""
        if len(self.ended) > self.gate.waiting:
            kept = self.gate.state()["waiting"]
            self.ended = {name: group for name, group in self.ended.items() if name in kept}

    def counted(self) -> _Window:
        """As it is now."""
        engines = self.cluster.engines
        return _Window(
            self.now(), sum(engine.busy_seconds for engine in engines), self.training_seconds,
            sum(engine.sampled for engine in engines), self.trained,
        )  # fmt: skip

    def look(self) -> None:
        """Note the queues, if it is time. No timer does it, which would hide that nothing else happens."""
        if not self.timeline.due(self.now()):
            return
        engines = self.cluster.engines
        self.timeline.look(
            self.now(),
            running=sum(engine.running for engine in engines),
            engine_queue=sum(engine.waiting for engine in engines),
            in_tools=self.tools.running,
            tool_queue=self.tools.waiting,
            ready=self.gate.waiting * self.scenario.workload.group_size,
        )

    def outcome(self, begun: _Window, done: _Window) -> Outcome:
        """What the measured steps came to."""
        scenario, engines = self.scenario, self.cluster.engines
        seconds = done.time - begun.time
        rate = (done.trained - begun.trained) / seconds
        gpus = scenario.engines * scenario.engine.gpus + scenario.trainer.own_gpus
        cached = sum(engine.cached for engine in engines)
        perfect = perfect_rate(scenario, self.work)
        return Outcome(
            mode=self.mode,
            engines=scenario.engines,
            rollout_engines=self.rollout_engines,
            train_gpus=self.train_gpus,
            eta=self.gate.eta,
            episodes=done.trained,
            step_seconds=seconds / scenario.steps,
            samples_per_second=rate,
            tokens_per_second=(done.sampled - begun.sampled) / seconds,
            engine_busy=min(1.0, (done.busy - begun.busy) / (seconds * len(engines))),
            trainer_busy=(done.training - begun.training) / seconds,
            efficiency=rate / perfect,
            perfect_samples_per_second=perfect,
            ages=dict(sorted(self.ages.items())),
            dropped=dict(self.gate.dropped),
            surplus=self.surplus,
            cache_hits=cached / max(1, cached + sum(engine.prefilled for engine in engines)),
            dollars_per_1000=gpus * scenario.gpu_hour / 3600 / rate * 1000,
            virtual_seconds=self.now(),
            timeline=self.timeline,
        )

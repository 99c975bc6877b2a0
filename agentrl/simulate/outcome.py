"""What a simulated run came to, over time and in all."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentrl.simulate.bound import Work, episodes_of, perfect_rate
from agentrl.simulate.scenario import Scenario

if TYPE_CHECKING:
    from pathlib import Path

LOOKS = 4000
"""The most that a timeline keeps; beyond it, every second one is left out, and further ones are rarer."""

LOOKS_PER_STEP = 20


@dataclass
class Timeline:
    """Queues over virtual time.

    Args:
        every: seconds between looks, at least.

    Attributes:
        times: of the looks.
        queues: by name, one number for each look.
        steps: when each training step ended, and the ages of what it trained on.
    """

    every: float = 1.0
    times: list[float] = field(default_factory=list)
    queues: dict[str, list[int]] = field(default_factory=dict)
    steps: list[tuple[float, dict[int, int]]] = field(default_factory=list)

    @classmethod
    def of(cls, scenario: Scenario, work: Work) -> Timeline:
        """An empty one, that is due several times a training step."""
        return cls(every=episodes_of(scenario) / perfect_rate(scenario, work) / LOOKS_PER_STEP)

    def due(self, now: float) -> bool:
        """Whether it is time for a look."""
        return not self.times or now >= self.times[-1] + self.every

    def look(self, now: float, **queues: int) -> None:
        """Note how long the queues are."""
        self.times.append(now)
        for name, length in queues.items():
            self.queues.setdefault(name, []).append(length)
        if len(self.times) >= LOOKS:
            self.times = self.times[::2]
            self.queues = {name: lengths[::2] for name, lengths in self.queues.items()}
            self.every *= 2

    def mean(self, name: str) -> float:
        """The mean length of a queue over time; 0 if it was never looked at."""
        lengths = self.queues.get(name, [])
        if len(lengths) < 2:
            return 0.0
        spans = [end - start for start, end in itertools.pairwise(self.times)]
        return sum(length * span for length, span in zip(lengths, spans, strict=False)) / sum(spans)

    def most(self, name: str) -> int:
        """The greatest length of a queue."""
        return max(self.queues.get(name, [0]))


@dataclass
class Outcome:
    """The measured steps of a simulated run.

    Args:
        mode, engines, eta: as in the scenario; ``eta`` as the mode has it.
        rollout_engines: engines that generate.
        train_gpus: GPUs that train.
        episodes: trained on, from the start.
        step_seconds: of a training step, everything included.
        samples_per_second: episodes trained on.
        tokens_per_second: sampled, over all engines.
        engine_busy: share of the time in which an engine had a sequence running.
        trainer_busy: share of the time in which the trainer computed.
        efficiency: of the throughput that no scheduler can beat which keeps to the scenario's η.
        perfect_samples_per_second: that throughput.
        ages: groups trained on, by their age in versions.
        dropped: groups that the staleness gate dropped, by reason.
        surplus: episodes given up, since their group was complete.
        cache_hits: share of prompt tokens that were found in prefix caches.
        dollars_per_1000: cost of a thousand episodes, all GPUs paid all the time.
        virtual_seconds, real_seconds: how long it took, in the simulation and outside.
        timeline: queues over time.
    """

    mode: str
    engines: int
    rollout_engines: int
    train_gpus: int
    eta: int
    episodes: int
    step_seconds: float
    samples_per_second: float
    tokens_per_second: float
    engine_busy: float
    trainer_busy: float
    efficiency: float
    perfect_samples_per_second: float
    ages: dict[int, int]
    dropped: dict[str, int]
    surplus: int
    cache_hits: float
    dollars_per_1000: float
    virtual_seconds: float
    timeline: Timeline
    real_seconds: float = 0.0

    @property
    def mean_age(self) -> float:
        """Of the groups trained on, in versions."""
        return sum(age * count for age, count in self.ages.items()) / max(1, sum(self.ages.values()))

    def to_dict(self) -> dict[str, Any]:
        """As JSON data, queues by their mean and greatest length."""
        data = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name != "timeline"
        }
        data["ages"] = {str(age): count for age, count in self.ages.items()}
        data["mean_age"] = self.mean_age
        queues = self.timeline.queues
        data["queues"] = {
            name: {"mean": self.timeline.mean(name), "most": self.timeline.most(name)} for name in queues
        }
        return data


def plot(outcomes: list[Outcome], path: Path) -> None:
    """Draw throughput, queues over time and ages, one column for each outcome.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(outcomes), 7), layout="constrained")
    axes = figure.subplots(2, len(outcomes), squeeze=False)
    for column, outcome in enumerate(outcomes):
        above, below = axes[0][column], axes[1][column]
        for name, lengths in outcome.timeline.queues.items():
            above.plot(outcome.timeline.times, lengths, label=name.replace("_", " "), linewidth=1)
        for time, _ in outcome.timeline.steps:
            above.axvline(time, color="0.8", linewidth=0.6, zorder=0)
        above.set_title(
            f"{outcome.mode}: {outcome.samples_per_second:.2f} episodes/s, "
            f"{100 * outcome.efficiency:.0f}% of what is possible"
        )
        above.set_xlabel("virtual seconds (lines: training steps)")
        above.set_ylabel("episodes")
        below.bar(list(outcome.ages), list(outcome.ages.values()), color="tab:purple")
        below.set_xlabel("age when trained on, in versions")
        below.set_ylabel("groups")
    axes[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=120)

"""Population based training over runs: generations of segments, between which the worst copy the best."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from agentrl.algorithms.pbt import Event, Hyper, evolve
from agentrl.errors import DataError, InfrastructureError
from agentrl.store import RunFolder

FAILED = -1.0
"""The score of a member that failed: below every share of successes."""

LEARNING_RATES = {"algorithm.learning_rate": "actor", "algorithm.critic_learning_rate": "critic"}
"""Settings that a checkpoint remembers, and the part of it that does."""


@dataclass(frozen=True)
class Segment:
    """What a member trains in a generation.

    Args:
        member: its number.
        folder: of its runs; it has one at most.
        env: the environment.
        words: settings, the member's own among them.
        steps: that the run has at the end.
        seconds: that it may take.
    """

    member: int
    folder: str
    env: str
    words: tuple[str, ...]
    steps: int
    seconds: float

    def run(self) -> RunFolder | None:
        """The member's run, if it was begun."""
        found = sorted(Path(self.folder).glob("*/config.yaml"))
        return RunFolder(found[-1].parent) if found else None

    def command(self) -> list[str]:
        """The words behind ``agentrl``: a run that is begun, or gone on with from its checkpoint."""
        run = self.run()
        begun = run is not None and latest(run) is not None
        how = f"resume={run.path}" if begun and run is not None else f"runs={self.folder}"
        return ["train", self.env, *self.words, f"steps={self.steps}", how, "--plain"]


Play = Callable[[Sequence[Segment], int], Sequence[bool]]
"""Trains the segments of a generation, of this number; whether each ended well, in their order."""

Tell = Callable[[str], None]


@dataclass
class Population:
    """Members, their hyperparameters, and how they came to them.

    Args:
        folder: of the population; made if missing.
        env: the environment.
        words: settings that all members share.
        space: bounds by setting.
        size: members.
        every: steps of a generation.
        steps: of a member in all.
        quantile: the share that gives way, at least one.
        seconds: that a member's generation may take.
        seed: of the first hyperparameters and all draws.

    Attributes:
        hypers, scores: of each member, now.
        events: every copy so far.
    """

    folder: Path
    env: str
    words: Sequence[str]
    space: Mapping[str, Hyper]
    size: int = 4
    every: int = 20
    steps: int = 100
    quantile: float = 0.2
    seconds: float = 3600.0
    seed: int = 0
    hypers: list[dict[str, float]] = field(init=False)
    scores: list[float] = field(init=False, default_factory=list)
    events: list[Event] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._rng = Random(self.seed)
        self.hypers = [drawn(self.space, self._rng) for _ in range(self.size)]

    def train(self, play: Play, tell: Tell = lambda line: None) -> None:
        """All generations. After each but the last the worst members copy better ones, and explore.

        Args:
            play: trains a generation's segments.
            tell: is told what goes on, line by line.

        Raises:
            InfrastructureError: every member of a generation failed.
            DataError: a member that is to be copied scored, and has no checkpoint.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._note({"start": [dict(own) for own in self.hypers]})
        targets = [*range(self.every, self.steps, self.every), self.steps]
        for number, target in enumerate(targets):
            segments = [self.segment(member, target) for member in range(self.size)]
            for segment in segments:
                self._retune(segment)
            tell(f"generation {number + 1} of {len(targets)}: {self.size} members to step {target}")
            ended = play(segments, number)
            self.scores = [
                score(each) if good else FAILED for each, good in zip(segments, ended, strict=True)
            ]
            self._note({"step": target, "scores": self.scores})
            tell("held-out success: " + ", ".join(map(_scored, self.scores)))
            if max(self.scores) == FAILED:
                raise InfrastructureError(
                    f"Every member failed before step {target}; the logs lie in {self.folder}/member-*/."
                )
            if target < self.steps:
                for event in self._evolve(target):
                    tell(_copied(event))

    def segment(self, member: int, steps: int) -> Segment:
        """What a member trains until it has so many steps."""
        own = [f"{name}={_told(value, self.space[name])}" for name, value in self.hypers[member].items()]
        folder = self.folder / f"member-{member}"
        folder.mkdir(parents=True, exist_ok=True)
        seed = [f"seed={self.seed + member}"]
        words = (*seed, *self.words, *own)
        return Segment(member, str(folder), self.env, words, steps, self.seconds)

    def _evolve(self, step: int) -> list[Event]:
        found = evolve(
            step, self.scores, self.hypers, self.space, self._rng, quantile=self.quantile, least=0.0
        )
        for event in found:
            copy_state(self.segment(event.donor, step), self.segment(event.member, step))
            self.hypers[event.member] = dict(event.new)
            self.events.append(event)
            self._note(asdict(event))
        return found

    def _retune(self, segment: Segment) -> None:
        run = segment.run()
        path = None if run is None else latest(run)
        if path is not None:
            rates = {part: self.hypers[segment.member].get(name) for name, part in LEARNING_RATES.items()}
            for part, rate in rates.items():
                if rate is not None:
                    set_learning_rate(path / part, rate)

    def _note(self, line: Mapping[str, Any]) -> None:
        with (self.folder / "lineage.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _scored(success: float) -> str:
    return "failed" if success == FAILED else f"{success:.1%}"


def _copied(event: Event) -> str:
    changes = [f"{name} {event.old[name]:.3g} -> {value:.3g}" for name, value in event.new.items()]
    return f"member {event.member} copies member {event.donor}: {', '.join(changes)}"


def drawn(space: Mapping[str, Hyper], rng: Random) -> dict[str, float]:
    """A member's first hyperparameters: evenly within bounds, of bounds above 0 evenly in their logarithm."""
    found = {}
    for name, hyper in space.items():
        share = rng.random()
        if hyper.low > 0:
            value = hyper.low * (hyper.high / hyper.low) ** share
        else:
            value = hyper.low + (hyper.high - hyper.low) * share
        found[name] = hyper.fitted(value)
    return found


def score(segment: Segment) -> float:
    """Held-out success at the segment's end; a run that measured none has failed."""
    run = segment.run()
    found = run.read_json(run.summary).get("success_after") if run and run.summary.is_file() else None
    return FAILED if found is None else float(found)


def latest(run: RunFolder) -> Path | None:
    """A run's newest checkpoint."""
    tracker = run.checkpoints / "latest_checkpointed_iteration.txt"
    if not tracker.is_file():
        return None
    path = run.checkpoints / f"global_step_{tracker.read_text().strip()}"
    return path if path.is_dir() else None


def copy_state(donor: Segment, member: Segment) -> None:
    """Give a member the newest checkpoint of another, in the place of its own.

    One that failed before it had a run begins with its new hyperparameters alone.

    Raises:
        DataError: the donor has none.
    """
    source, run = donor.run(), member.run()
    path = None if source is None else latest(source)
    if source is None or path is None:
        raise DataError(
            f"Member {member.member} cannot copy member {donor.member}, which has no checkpoint. See "
            f"{donor.folder}."
        )
    if run is None:
        return
    partial = run.path / ".checkpoints"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    shutil.copytree(path, partial / path.name)
    tracker = "latest_checkpointed_iteration.txt"
    shutil.copy(source.checkpoints / tracker, partial / tracker)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    partial.replace(run.checkpoints)


def set_learning_rate(folder: Path, rate: float) -> None:
    """Write a learning rate into a checkpoint's optimizer and schedule.

    verl takes both from the checkpoint when a run is gone on with, whatever the settings say.
    """
    import torch

    for path in folder.glob("optim_world_size_*.pt"):
        state = torch.load(path, weights_only=False)  # our own run's; it holds plain data beside tensors
        for group in state["param_groups"]:
            group["lr"] = group["initial_lr"] = rate
        torch.save(state, path)
    for path in folder.glob("extra_state_world_size_*.pt"):
        state = torch.load(path, weights_only=False)
        schedule = state["lr_scheduler"]
        if schedule is not None:
            before = schedule["base_lrs"]
            shares = [
                last / base if base else 1.0 for last, base in zip(schedule["_last_lr"], before, strict=True)
            ]
            schedule["base_lrs"] = [rate] * len(before)
            schedule["_last_lr"] = [rate * share for share in shares]
            torch.save(state, path)


def _told(value: float, hyper: Hyper) -> str:
    return str(int(value)) if hyper.whole else repr(value)

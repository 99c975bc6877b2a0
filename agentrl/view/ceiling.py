"""What a run's reward will come to with more compute: ScaleRL's sigmoid over what runs recorded."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agentrl.algorithms.scaling import Sigmoid, ceiling_interval, fit
from agentrl.config import TrainConfig, validate
from agentrl.errors import DataError
from agentrl.events import EventReader
from agentrl.registry import nearest
from agentrl.store import RunFolder
from agentrl.view.state import RunState

Compute = Literal["hours", "tokens", "steps"]

HELD_OUT = {"eval/success": "success", "eval/reward": "reward"}
"""Metrics of held-out evaluations, and what they are called in an evaluation's event."""

FROM_RUNS = 3
"""From so many runs on, the interval is between the lowest and the highest of their own ceilings."""

MOST_POINTS = 400
"""More points than these are averaged with their neighbours, so that a long run takes no longer."""


@dataclass(frozen=True)
class Series:
    """What one run measured.

    Args:
        name: of the run or file.
        points: (compute, reward), in the order of compute; at compute 0 nothing was trained yet.
    """

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Ceiling:
    """A fitted curve and how sure it is.

    Args:
        curve: the sigmoid; its ``ceiling`` is the prediction A.
        interval: of the ceiling.
        interval_from: ``bootstrap`` of the residuals (95%), or ``runs``: the lowest and the highest of the
            ceilings of the runs by themselves.
        start_from: where ``R_0`` is from: ``given``, ``measured`` at compute 0, or ``fitted``.
        points: points that were fitted.
        dropped: points at the start that were not.
        greatest: the most compute that was measured.
        ceilings: by run, the ceiling of that run by itself; empty where there are fewer than three.
    """

    curve: Sigmoid
    interval: tuple[float, float]
    interval_from: Literal["bootstrap", "runs"]
    start_from: Literal["given", "measured", "fitted"]
    points: int
    dropped: int
    greatest: float
    ceilings: dict[str, float]

    @property
    def dropped_share(self) -> float:
        """Of all points above compute 0, the share that was left out at the start."""
        return self.dropped / (self.points + self.dropped)

    @property
    def bent(self) -> bool:
        """Whether half the rise lies within what was measured; if not, the ceiling is a guess."""
        return self.curve.middle <= self.greatest

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, by the names of the formula."""
        curve = self.curve
        return {
            "R0": curve.start, "R0_from": self.start_from, "A": curve.ceiling,
            "A_interval": list(self.interval), "A_interval_from": self.interval_from,
            "B": curve.slope, "C_mid": curve.middle, "points": self.points, "dropped": self.dropped,
            "dropped_share": self.dropped_share, "greatest_compute": self.greatest, "bent": self.bent,
            "A_of_runs": self.ceilings,
        }  # fmt: skip


def predict(series: Sequence[Series], *, start: float | None = None, drop: float = 0.1) -> Ceiling:
    """Fit one sigmoid to all series.

    Args:
        series: one or more runs.
        start: ``R_0``; without it the mean of what was measured at compute 0, and where nothing was, it is
            fitted.
        drop: the share of each run's points above compute 0 that is left out at its start, for the
            formula does not hold there (ScaleRL leaves out the first 1,500 GPU hours).

    Raises:
        DataError: too few points are left, or the reward does not rise.
    """
    if not 0 <= drop < 1:
        raise DataError(f"--drop={drop} is a share of the points: from 0 to below 1.")
    before = [reward for one in series for cost, reward in one.points if cost == 0]
    trained = {one.name: [point for point in one.points if point[0] > 0] for one in series}
    kept = {name: points[math.floor(drop * len(points)) :] for name, points in trained.items()}
    measured = float(np.mean(before)) if before else None
    used = start if start is not None else measured
    points = sorted(point for own in kept.values() for point in own)
    curve = _risen(points, used, ", ".join(kept))
    ceilings = _own_ceilings(kept, used)
    if ceilings:
        interval = min(ceilings.values()), max(ceilings.values())
    else:
        costs, rewards = zip(*_thinned(points), strict=True)
        interval = ceiling_interval(costs, rewards, start=used)
    origin: Literal["given", "measured"] = "given" if start is not None else "measured"
    return Ceiling(
        curve=curve,
        interval=interval,
        interval_from="runs" if ceilings else "bootstrap",
        start_from="fitted" if used is None else origin,
        points=len(points),
        dropped=sum(map(len, trained.values())) - len(points),
        greatest=points[-1][0],
        ceilings=ceilings,
    )


def _own_ceilings(kept: Mapping[str, Sequence[tuple[float, float]]], start: float | None) -> dict[str, float]:
    if len(kept) < FROM_RUNS:
        return {}
    return {name: _risen(points, start, name).ceiling for name, points in kept.items()}


def _risen(points: Sequence[tuple[float, float]], start: float | None, name: str) -> Sigmoid:
    """The fit to points that rise.

    Raises:
        DataError: there are too few, or they do not rise.
    """
    try:
        costs, rewards = zip(*_thinned(points), strict=True) if points else ((), ())
        curve = fit(costs, rewards, start=start)
    except DataError as problem:
        raise DataError(
            f"{name}: {problem} Train for more steps, evaluate more often (eval.every), or lower --drop."
        ) from problem
    third = max(1, len(points) // 3)
    first, last = (float(np.mean(part)) for part in (rewards[:third], rewards[-third:]))
    if curve.ceiling <= curve.start or last <= first:
        raise DataError(
            f"{name}: the reward does not rise with compute ({first:.3g} in the first third of the points, "
            f"{last:.3g} in the last), so there is no ceiling to predict."
        )
    return curve


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MOST_POINTS:
        return list(points)
    parts = np.array_split(np.asarray(points, dtype=np.float64), MOST_POINTS)
    return [(float(cost), float(reward)) for cost, reward in (part.mean(0) for part in parts)]


def read_series(source: str, runs: Path, *, metric: str, compute: Compute) -> Series:
    """What a run measured, or what a file holds.

    Args:
        source: a run folder, a run's name in ``runs``, ``last``; or a CSV or JSON lines file with compute and
            reward.
        runs: the folder of run folders.
        metric: of a run: a name in ``metrics.jsonl``, or ``eval/success`` or ``eval/reward``.
        compute: of a run: what is counted. A step's reward was made with what was spent before it.

    Raises:
        UsageError: there is no such run or file, it cannot be read, or it has no such metric.
    """
    if Path(source).is_file():
        return Series(source, sorted(_of_file(Path(source))))
    run = RunFolder.open(source, runs)
    lines = _metrics(run)
    spent = [0.0, *accumulate(_cost(line, compute, _devices(run), run) for line in lines)]
    at = {int(line["step"]): cost for line, cost in zip(lines, spent[1:], strict=True)}
    if metric in HELD_OUT:
        found = _evaluations(run)
        points = [(at.get(step, 0.0), getattr(event, HELD_OUT[metric])) for step, event in found.items()
                  if step == 0 or step in at]  # fmt: skip
    else:
        points = [
            (cost, float(line[metric])) for line, cost in zip(lines, spent, strict=False) if metric in line
        ]
    if not points:
        known = sorted({name for line in lines for name in line} - {"step", "time"})
        raise DataError(f"Run {run.name!r} has no {metric!r}. {nearest(metric, [*known, *HELD_OUT])}")
    return Series(run.name, sorted(points))


def _metrics(run: RunFolder) -> list[dict[str, Any]]:
    if not run.metrics.is_file():
        raise DataError(f"Run {run.name!r} has no metrics.jsonl: it did not train a step. See {run.log}.")
    lines = [_object(line, run.metrics, number) for number, line in _numbered(run.metrics)]
    return sorted(lines, key=lambda line: int(line["step"]))


def _cost(line: Mapping[str, Any], compute: Compute, devices: int, run: RunFolder) -> float:
    """What a step took."""
    try:
        if compute == "steps":
            return 1.0
        if compute == "hours":
            return float(line["time/step"]) * devices / 3600
        return float(line["tokens/per_second"]) * float(line["time/generate"] + line["time/tools"])
    except KeyError as problem:
        raise DataError(
            f"Step {line['step']} of run {run.name!r} recorded no {problem}, of which --compute={compute} is "
            "made. Use --compute=steps."
        ) from problem


def _devices(run: RunFolder) -> int:
    """The GPUs that a run takes; without any, the machine."""
    config: TrainConfig = validate(run.read_config())
    machines = config.hardware
    if machines.device == "cpu":
        return 1
    apart = 0 if config.mode == "sync" else machines.engine_nodes * machines.engine_gpus_per_node
    return machines.nodes * machines.gpus_per_node + apart


def _evaluations(run: RunFolder) -> Mapping[int, Any]:
    state = RunState()
    try:
        state.add_all(EventReader(run.events).poll())
    except (ValueError, KeyError, TypeError, OSError) as problem:
        raise DataError(f"{run.events} cannot be read: {problem}") from problem
    return state.evaluations


def _of_file(path: Path) -> list[tuple[float, float]]:
    try:
        rows = list(_json_lines(path) if path.suffix in (".jsonl", ".json") else _csv(path))
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise DataError(f"{path} cannot be read: {problem}") from problem
    points = []
    for number, pair in rows:
        try:
            cost, reward = map(float, pair)
        except (TypeError, ValueError) as problem:
            raise DataError(f"{path}:{number} does not hold two numbers, compute and reward.") from problem
        if not (math.isfinite(cost) and math.isfinite(reward) and cost >= 0):
            raise DataError(f"{path}:{number}: compute must not be below 0, and both must be finite.")
        points.append((cost, reward))
    return points


def _json_lines(path: Path) -> Iterable[tuple[int, Sequence[Any]]]:
    for number, line in _numbered(path):
        try:
            value = json.loads(line)
        except ValueError as problem:
            raise DataError(f"{path}:{number} is no JSON: {problem}") from problem
        yield number, _pair(value) if isinstance(value, dict) else value


def _csv(path: Path) -> Iterable[tuple[int, Sequence[Any]]]:
    with path.open(newline="", encoding="utf-8") as file:
        names: list[str] | None = None
        for number, row in enumerate(csv.reader(file), 1):
            if not row:
                continue
            if names is None and number == 1 and not _is_number(row[0]):
                names = [cell.strip() for cell in row]
                continue
            yield number, row if names is None else _pair(dict(zip(names, row, strict=False)))


def _pair(fields: Mapping[str, Any]) -> Sequence[Any]:
    """``compute`` and ``reward`` of a record; of one with two fields those, in order."""
    if {"compute", "reward"} <= fields.keys():
        return [fields["compute"], fields["reward"]]
    return list(fields.values())


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbered(path: Path) -> list[tuple[int, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
        return {**found, "step": int(found["step"])}
    except (ValueError, TypeError, KeyError) as problem:
        raise DataError(f"{path}:{number} is no step's line of metrics: {problem}") from problem

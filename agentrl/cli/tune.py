"""``agentrl tune``: a population of trainings, of which the worst copy the best."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from agentrl.algorithms.pbt import Hyper
from agentrl.cli.settings import load
from agentrl.config import parse_overrides
from agentrl.errors import ConfigError, UsageError
from agentrl.train.population import Population

SPACE = "space."


class Settings(BaseModel):
    """What is the population's, and not its members'."""

    model_config = ConfigDict(extra="forbid")

    population: int = Field(4, ge=2)
    every: int = Field(20, ge=1)
    quantile: float = Field(0.2, gt=0, le=0.5)
    at_once: int = Field(1, ge=1)
    minutes: float = Field(60.0, gt=0)


def tune(env: str, words: Sequence[str], *, as_json: bool = False) -> int:
    """Train the population, and tell which member was best; returns the exit code.

    Raises:
        UsageError: a setting does not fit, the space is empty, or Ray Tune is not installed.
    """
    population, at_once = prepared(env, words)
    try:
        import ray

        from agentrl.train.trials import on_tune

        play = on_tune(population.folder, at_once=at_once)
    except ImportError as problem:
        raise UsageError("This needs Ray Tune: pip install 'agentrl[tune]'.") from problem
    typer.echo(
        f"{population.size} members in {population.folder}; their output: member-*/output.txt", err=True
    )
    ray.init(address="local", num_cpus=at_once, include_dashboard=False, log_to_driver=False)
    try:
        population.train(play, lambda line: typer.echo(line, err=True))
    finally:
        ray.shutdown()
    _tell(population, as_json)
    return 0


def prepared(env: str, words: Sequence[str]) -> tuple[Population, int]:
    """The population that words ask for, and how many of its members train at the same time.

    Raises:
        UsageError: a setting does not fit.
    """
    own, space, shared = _sorted(words)
    try:
        how = Settings.model_validate(own)
    except ValidationError as problem:
        error = problem.errors()[0]
        raise ConfigError(f"{error['loc'][0]}={error['input']!r}: {error['msg']}.") from None
    if not space:
        raise ConfigError("Say what is tuned within which bounds: space.algorithm.learning_rate=[1e-5,1e-3].")
    for end in ("low", "high"):  # tells now what would stop every member
        config, _ = load(env, [*shared, *(f"{name}={_end(hyper, end)}" for name, hyper in space.items())])
    if config.resume is not None:
        raise ConfigError("agentrl tune does not use resume; leave it out.")
    name = f"population-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    kept = [word for word in shared if word.split("=")[0] not in ("runs", "steps", "seed")]
    population = Population(
        folder=(Path(config.runs) / name).resolve(),
        env=env,
        words=kept,
        space=space,
        size=how.population,
        every=how.every,
        steps=config.steps,
        quantile=how.quantile,
        seconds=how.minutes * 60,
        seed=config.seed,
    )
    return population, how.at_once


def _sorted(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Hyper], list[str]]:
    """The population's settings, its space, and what its members share."""
    own: dict[str, Any] = {}
    space: dict[str, Hyper] = {}
    shared: list[str] = []
    for word in words:
        name, _, value = word.partition("=")
        if name.startswith(SPACE):
            space[name.removeprefix(SPACE)] = _bounds(name, parse_overrides([f"bounds={value}"])["bounds"])
        elif name in Settings.model_fields:
            own |= parse_overrides([word])
        else:
            shared.append(word)
    return own, space, shared


def _bounds(name: str, value: Any) -> Hyper:
    try:
        low, high = (float(end) for end in value)
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise ConfigError(f"{name} takes two bounds, the lower one first: {name}=[1e-5,1e-3].")
    return Hyper(low, high, whole=all(isinstance(end, int) for end in value))


def _end(hyper: Hyper, which: str) -> str:
    value = float(getattr(hyper, which))
    return str(int(value)) if hyper.whole else repr(value)


def _tell(population: Population, as_json: bool) -> None:
    best = max(range(population.size), key=lambda member: population.scores[member])
    members = [
        {"member": member, "score": population.scores[member], "hypers": population.hypers[member],
         "run": str(run.path) if (run := population.segment(member, population.steps).run()) else None}
        for member in range(population.size)
    ]  # fmt: skip
    told = {
        "folder": str(population.folder),
        "best": best,
        "exploits": len(population.events),
        "members": members,
    }
    if as_json:
        typer.echo(json.dumps(told))
        return
    console = Console(soft_wrap=True)
    for one in members:
        mark = "*" if one["member"] == best else " "
        line = f"{mark} member {one['member']}  success {one['score']:.3f}  {one['hypers']}  {one['run']}"
        console.print(line, markup=False, highlight=False)
    console.print(f"lineage: {population.folder}/lineage.jsonl", markup=False, highlight=False)

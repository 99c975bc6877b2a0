"""What is simulated: a workload, engines, tools and a trainer, as a YAML file with its sources."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from agentrl.config import Section, parse_overrides
from agentrl.errors import ConfigError
from agentrl.registry import nearest
from agentrl.simulate.engine import EngineModel

FOLDER = Path(__file__).parent / "scenarios"

Mode = Literal["sync", "one_step_off", "async"]
MODES: tuple[Mode, ...] = ("sync", "one_step_off", "async")


class Spread(Section):
    """A log-normal quantity, cut off at both ends."""

    mean: float = Field(..., ge=0, description="before it is cut off")
    sigma: float = Field(0.0, ge=0, description="of its logarithm; 1 is a heavy tail")
    least: float = Field(0.0, ge=0)
    most: float = Field(math.inf, gt=0)

    def draw(self, rng: random.Random, factor: float = 1.0) -> float:
        """One value, of a mean ``factor`` times as large."""
        if self.mean == 0:
            return self.least
        value = self.mean * factor
        if self.sigma:
            value *= math.exp(rng.gauss(-self.sigma * self.sigma / 2, self.sigma))
        return min(self.most, max(self.least, value))


class Workload(Section):
    """What episodes are like."""

    prompt_tokens: int = Field(500, ge=1)
    turns: float = Field(1.0, ge=1, description="mean; geometrically distributed")
    least_turns: int = Field(1, ge=1)
    most_turns: int = Field(64, ge=1)
    turn_tokens: Spread = Field(..., description="tokens sampled in a turn")
    observation_tokens: Spread = Field(Spread(mean=0), description="tokens that a call returns")
    tool_seconds: Spread = Field(Spread(mean=0), description="what a call takes once it has a place")
    task_sigma: float = Field(0.0, ge=0, description="how much tasks differ in tokens and tool time")
    most_tokens: int = Field(32_768, ge=16, description="the longest context")
    group_size: int = Field(8, ge=1, description="episodes of a task")
    episodes_per_engine: float = Field(
        16, gt=0, description="episodes of a training step, for each engine's worth of machines"
    )


class Engines(Section):
    """One inference engine; see :class:`agentrl.simulate.engine.EngineModel`."""

    gpus: int = Field(1, ge=1, description="of each engine")
    step_seconds: float = Field(..., gt=0)
    sequence_seconds: float = Field(0.0, ge=0)
    context_seconds: float = Field(0.0, ge=0)
    prefill_rate: float = Field(..., gt=0)
    kv_tokens: int = Field(..., ge=1)
    sequences: int = Field(256, ge=1)
    prefix_cache: bool = True
    keeps_cache: bool = False
    episodes: int = Field(256, ge=1, description="episodes that may be under way for each engine")

    @property
    def model(self) -> EngineModel:
        """As the engine takes it."""
        return EngineModel(**self.model_dump(exclude={"gpus", "episodes"}))


class Trainer(Section):
    """A training step and the transfer of weights."""

    tokens_per_gpu_second: float = Field(..., gt=0, description="forward and backward of what is trained on")
    fixed_seconds: float = Field(0.0, ge=0, description="of a step, whatever its size")
    logprob_share: float = Field(
        0.0,
        ge=0,
        description="time to recompute log-probs, as a share of the update's; synchronous mode only",
    )
    sync_seconds: float = Field(1.0, ge=0, description="weights to the engines, which stand still meanwhile")
    switch_seconds: float = Field(
        0.0, ge=0, description="between generation and training on the same GPUs; synchronous mode only"
    )
    beside_factor: float = Field(
        1.0, ge=1, description="how much longer a step takes while engines generate; for cores that both use"
    )
    own_gpus: int = Field(
        0, ge=0, description="that only ever train; 0: the cluster's, in turn or a part of them, by the mode"
    )


class Scenario(Section):
    """A simulated run."""

    about: str = ""
    sources: list[str] = Field(default_factory=list, description="where the numbers come from")
    engines: int = Field(16, ge=1, description="the size of the whole cluster, in engines")
    mode: Mode | Literal["all"] = "all"
    eta: int = Field(4, ge=0, description="asynchronous mode: versions ahead that may be sampled")
    staleness: Literal["drop", "wait", "correct"] = "drop"
    rollout_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="of the engines where generation and training are apart; default: balanced",
    )
    tool_places: float | None = Field(
        None, gt=0, description="calls at once, for each engine; default: any number"
    )
    over: int = Field(0, ge=0, description="episodes begun in each group beyond those that are waited for")
    steps: int = Field(12, ge=1, description="training steps that are measured")
    warmup: int | None = Field(
        None,
        ge=0,
        description="steps before them; default: as many as were begun at once, which end in a burst",
    )
    gpu_hour: float = Field(2.0, ge=0, description="price of a GPU, in dollars")
    seed: int = 0
    workload: Workload
    engine: Engines
    trainer: Trainer

    @model_validator(mode="after")
    def fits(self) -> Self:
        """Refuse contexts that no engine has room for: their episodes could never end."""
        longest, room = self.workload.most_tokens, self.engine.kv_tokens
        if longest > room:
            raise ValueError(f"workload.most_tokens={longest} do not fit into engine.kv_tokens={room}")
        if self.workload.prompt_tokens >= longest:
            raise ValueError(f"workload.most_tokens={longest} leave no room after the prompt")
        return self

    def ahead(self, mode: Mode) -> int:
        """Versions ahead that may be sampled."""
        return {"sync": 0, "one_step_off": 1, "async": self.eta}[mode]

    def unmeasured(self, mode: Mode) -> int:
        """Steps before those that are measured."""
        return self.ahead(mode) + 1 if self.warmup is None else self.warmup

    @property
    def groups(self) -> int:
        """Groups of a training step."""
        return max(1, round(self.engines * self.workload.episodes_per_engine / self.workload.group_size))


def scenarios() -> list[str]:
    """The names of those that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str, words: Sequence[str] = ()) -> Scenario:
    """A scenario by its name, or by the path of a YAML file, with ``key=value`` words laid over it.

    Raises:
        ConfigError: there is no such scenario, or a setting is unknown or does not fit.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"There is no scenario {name!r}. {nearest(name, scenarios())} Or give a YAML file.")
    try:
        settings = yaml.safe_load(path.read_text())
    except yaml.YAMLError as problem:
        raise ConfigError(f"{path} is not valid YAML: {problem}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold a mapping, not {type(settings).__name__}.")
    _lay_over(settings, parse_overrides(words))
    try:
        return Scenario.model_validate(settings)
    except ValidationError as problem:
        raise ConfigError("\n".join(_explain(error) for error in problem.errors())) from None


def _lay_over(settings: dict[str, Any], words: dict[str, Any]) -> None:
    for key, value in words.items():
        if isinstance(value, dict) and isinstance(settings.get(key), dict):
            _lay_over(settings[key], value)
        else:
            settings[key] = value


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{where or 'The scenario'}: {error['msg']}" + (
            f" (got {error['input']!r})." if where else "."
        )
    section: Any = Scenario
    for part in error["loc"][:-1]:
        section = section.model_fields[str(part)].annotation
    return f"There is no setting {where}. {nearest(str(error['loc'][-1]), list(section.model_fields))}"

"""A training run's settings: one typed configuration for every machine.

Values come from, in rising order: the defaults here, ``agentrl/presets/<preset>.yaml``, the
environment's ``train.yaml``, and ``key=value`` words on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentrl.errors import ConfigError
from agentrl.registry import nearest

EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class Section(BaseModel):
    """A group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class Algorithm(Section):
    """How the policy is improved."""

    name: str = Field("grpo", description="one of agentrl algorithms; see docs/algorithms.md")
    tasks_per_step: int = Field(16, ge=1, description="tasks sampled for each training step")
    group_size: int = Field(8, ge=1, description="episodes per task")
    over: int = Field(0, ge=0, description="begun per task beyond those; the last so many are broken off")
    learning_rate: float = Field(1e-6, gt=0)
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises")
    minibatches: int = Field(1, ge=1, description="optimizer updates per step; must divide tasks_per_step")
    epochs: int = Field(1, ge=1, description="passes over each step's samples")
    clip_low: float | None = Field(None, gt=0, description="short for trust.clip_low")
    clip_high: float | None = Field(None, gt=0, description="short for trust.clip_high")
    kl_coefficient: float | None = Field(None, ge=0, description="short for kl.coefficient")
    entropy_coefficient: float | None = Field(None, ge=0, description="short for entropy.coefficient")
    normalize_by_std: bool | None = Field(None, description="short for advantage.scale, group_std or none")
    loss_aggregation: Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"] | None = Field(
        None, description="short for aggregation.kind"
    )
    gamma: float | None = Field(None, gt=0, le=1, description="short for advantage.gamma")
    lam: float | None = Field(None, ge=0, le=1, description="short for advantage.lam")
    critic_learning_rate: float = Field(1e-5, gt=0)
    grad_clip: float = Field(1.0, gt=0)

    # The algorithm's parts; agentrl.algorithms checks them, and {} leaves one as the algorithm has it.
    advantage: dict[str, Any] = Field(default_factory=dict)
    second_advantage: dict[str, Any] | None = Field(default_factory=dict)
    critic: dict[str, Any] | None = Field(default_factory=dict)
    ratio: dict[str, Any] = Field(default_factory=dict)
    trust: dict[str, Any] = Field(default_factory=dict)
    correction: dict[str, Any] = Field(default_factory=dict)
    aggregation: dict[str, Any] = Field(default_factory=dict)
    kl: dict[str, Any] = Field(default_factory=dict)
    entropy: dict[str, Any] = Field(default_factory=dict)
    clip_cov: dict[str, Any] | None = Field(default_factory=dict)
    weights: dict[str, Any] = Field(default_factory=dict)
    filters: dict[str, Any] = Field(default_factory=dict)
    groups: dict[str, Any] = Field(default_factory=dict)
    staleness: dict[str, Any] = Field(default_factory=dict)
    replay: dict[str, Any] | None = Field(default_factory=dict)
    curriculum: dict[str, Any] | None = Field(default_factory=dict)
    shaping: dict[str, Any] | None = Field(default_factory=dict)
    rollout: dict[str, Any] | None = Field(default_factory=dict)


class Rollout(Section):
    """Limits and sampling of an episode."""

    max_turns: int = Field(8, ge=1)
    max_turn_tokens: int = Field(1024, ge=1, description="tokens sampled in one turn")
    max_observation_tokens: int = Field(
        1024, ge=16, description="tokens of one observation; longer keeps head and tail"
    )
    max_prompt_tokens: int = Field(1024, ge=1)
    max_image_pixels: int = Field(
        1_003_520, ge=1, le=2_500_000, description="larger images are shrunk, by the model's own rule"
    )
    max_trajectory_tokens: int = Field(4096, ge=16, description="tokens after the prompt")
    tool_seconds: float = Field(30.0, gt=0, description="one tool call, unless the tool says otherwise")
    episode_seconds: float = Field(600.0, gt=0)
    retries: int = Field(3, ge=0, description="fresh attempts after an infrastructure failure")
    retry_seconds: float = Field(0.5, ge=0, description="wait before the first retry; doubles each time")
    concurrency: int = Field(256, ge=1, description="episodes at once in one process")
    engine_episodes: int | None = Field(
        None,
        ge=1,
        description="of these, how many may wait for the engine before no further one begins; default: all",
    )
    tool_episodes: int | None = Field(
        None,
        ge=1,
        description="of these, how many may wait for tools before no further one begins; default: all",
    )
    free_memory_mb: int = Field(
        1024,
        ge=0,
        description="MiB of the machine's memory that episodes leave free",
    )
    tool_exceptions: Literal["show", "stop"] = Field(
        "show", description="show: the model sees what a tool raised; stop: the run ends"
    )
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    agent_sampling: Literal["run", "agent"] = Field(
        "run",
        description="agents of one's own: whose temperature and top_p count; agent: those of its requests, "
        "where it sends some, which training refuses",
    )
    seeded: bool = Field(
        False, description="give each episode a seed, so that a run can be repeated; slower on a GPU"
    )
    renderer: str = Field("auto", description="chat format; see docs/chat.md")
    response_seconds: float = Field(300.0, gt=0, description="one generation of the engine")


class Sandbox(Section):
    """Where model-written code runs."""

    backend: str = Field(
        "auto", description="auto: the first that isolates on this machine; or a name, dotted path or file"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="options of the backend that is named")


class Evaluation(Section):
    """Held-out success, measured before and after training."""

    tasks: int = Field(128, ge=1)
    samples: int = Field(1, ge=1, description="episodes per task")
    temperature: float | None = Field(
        None, description="default: the rollout's, at which the policy is trained"
    )
    every: int = Field(0, ge=0, description="steps between evaluations; 0: only before and after")


class Checkpoint(Section):
    """When the trainer's state is kept."""

    every: int = Field(
        0, ge=0, description="steps between checkpoints; 0: only the last step and on interruption"
    )
    keep: int = Field(2, ge=1)
    restarts: int = Field(
        2, ge=0, description="times a run goes on by itself after one of its processes was lost"
    )


class Staleness(Section):
    """How far behind the trainer the policy that sampled may be; counts where ``mode=async``."""

    bound: int | None = Field(
        None,
        ge=0,
        description="updates by which a trained token may be behind; by default what the algorithm says, or "
        "2; one_step_off: always 1",
    )
    policy: Literal["drop", "wait", "correct"] = Field(
        "drop",
        description="a group that comes too late: drop it; wait for it before it is; or train it with "
        "truncated importance weights. one_step_off: always wait",
    )
    weight_limit: float = Field(
        5.0, gt=1, description="correct: the largest importance weight; larger ones are cut to it"
    )


class Hardware(Section):
    """The machines a run uses."""

    device: Literal["cpu", "gpu"] = "gpu"
    nodes: int = Field(1, ge=1)
    gpus_per_node: int = Field(1, ge=1)
    engine_nodes: int = Field(
        1, ge=1, description="nodes of the inference engines, where they are apart from the trainer"
    )
    engine_gpus_per_node: int = Field(
        1, ge=1, description="GPUs on each of them; on a CPU the number of engines"
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs per inference engine")
    engine_memory: float = Field(
        0.6, gt=0, lt=1, description="share of GPU memory, or GiB of KV cache on a CPU"
    )
    engine_seconds: float = Field(
        180.0, gt=0, description="seconds without an answer after which an inference engine counts as lost"
    )
    worker_seconds: float = Field(600.0, gt=0, description="the same for a rollout worker")
    cluster_seconds: float = Field(
        600.0, ge=0, description="wait for a cluster to have the GPUs free that the run asks for"
    )
    rollout_workers: int = Field(8, ge=1, description="processes that run episodes")
    micro_batch_tokens: int = Field(16384, ge=128, description="tokens in one forward pass of training")


class TrainConfig(Section):
    """A training run."""

    env: str = Field(..., description="name, dotted path or file of the environment")
    model: str = Field("embedded", description="embedded, embedded-vl, smollm2, a folder or a hub id")
    preset: Literal["cpu", "gpu"] = "cpu"
    mode: Literal["sync", "one_step_off", "async"] = Field(
        "sync",
        description="sync: sample, then train; one_step_off: sample the next step meanwhile; async: never "
        "wait, within staleness.bound",
    )
    cluster: str | None = Field(
        None, description="address of a Ray cluster, or 'auto'; default: start one on this machine"
    )
    data: str | None = Field(
        None, description="folder or hub id of the tasks, where the environment takes one"
    )
    env_options: dict[str, Any] = Field(default_factory=dict, description="options of the environment")
    on_bad_row: Literal["stop", "skip"] = Field(
        "stop", description="skip: leave malformed rows out, and say which"
    )
    seed: int = 0
    steps: int = Field(40, ge=1)
    runs: str = Field("runs", description="folder of run folders")
    resume: str | None = Field(None, description="a run folder to go on with, or 'last'")
    algorithm: Algorithm = Field(default_factory=Algorithm)
    rollout: Rollout = Field(default_factory=Rollout)
    sandbox: Sandbox = Field(default_factory=Sandbox)
    staleness: Staleness = Field(default_factory=Staleness)
    eval: Evaluation = Field(default_factory=Evaluation)
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    hardware: Hardware = Field(default_factory=Hardware)
    verl: dict[str, Any] = Field(default_factory=dict, description="verl options, by verl's own keys")

    @property
    def environment_options(self) -> dict[str, Any]:
        """What the environment is made with."""
        named: dict[str, Any] = {} if self.data is None else {"data": self.data}
        if self.on_bad_row != "stop":
            named["on_bad_row"] = self.on_bad_row
        return {**named, **self.env_options}


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """``key.sub=value`` words as a nested mapping; values are read as YAML.

    Raises:
        ConfigError: a word is not of that form.
    """
    tree: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r} is no setting; write key=value, for example steps=10.")
        if key.startswith("verl."):
            tree.setdefault("verl", {})[key.removeprefix("verl.")] = _value(key, value)
            continue
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    f"{word!r}: {parent!r} has a value already and can have no {leaf!r} below it."
                )
        node[leaf] = _value(key, value)
    return tree


def load_config(env: str, words: Sequence[str] = (), *, folder: Path | None = None) -> TrainConfig:
    """The whole configuration of a run.

    Args:
        env: the environment's name, dotted path or file.
        words: ``key=value`` overrides.
        folder: the environment's folder. Its ``train.yaml`` holds mappings ``all``, one per preset,
            ``<preset>-data``, which counts where ``data=`` is given, and ``warmup``
            for :func:`warmup_words`.

    Raises:
        ConfigError: an unknown key, with its nearest neighbours, or a value that does not fit.
    """
    overrides = parse_overrides(words)
    preset = overrides.get("preset", "cpu")
    presets = Path(__file__).parent / "presets"
    known = sorted(path.stem for path in presets.glob("*.yaml"))
    if preset not in known:
        raise ConfigError(f"preset={preset} is unknown. {nearest(str(preset), known)}")
    own = {} if folder is None else _read_own(folder / "train.yaml", known)
    layers = [own.get("all", {}), own.get(preset, {})]
    if overrides.get("data") is not None:
        layers.append(own.get(f"{preset}-data", {}))
    settings = reduce(merged, [*layers, overrides], _read(presets / f"{preset}.yaml"))
    return validate({**settings, "env": env, "preset": preset})


def warmup_words(folder: Path) -> list[str]:
    """What an environment's ``train.yaml`` says under ``warmup``, as ``key=value`` words.

    Raises:
        ConfigError: the file is malformed.
    """
    presets = sorted(path.stem for path in (Path(__file__).parent / "presets").glob("*.yaml"))

    def flat(tree: Mapping[str, Any], prefix: str) -> list[str]:
        words: list[str] = []
        for key, value in tree.items():
            words += (
                flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}={value}"]
            )
        return words

    return flat(_read_own(folder / "train.yaml", presets).get("warmup", {}), "")


def validate(data: Mapping[str, Any]) -> TrainConfig:
    """Check a mapping against :class:`TrainConfig`.

    Raises:
        ConfigError: listing everything that is wrong.
    """
    try:
        config = TrainConfig.model_validate(dict(data))
    except ValidationError as problem:
        raise ConfigError("\n".join(_explain(error) for error in problem.errors())) from None
    algorithm = config.algorithm
    if algorithm.tasks_per_step % algorithm.minibatches:
        raise ConfigError(
            f"algorithm.minibatches={algorithm.minibatches} must divide "
            f"algorithm.tasks_per_step={algorithm.tasks_per_step}."
        )
    known = sorted(path.stem for path in (Path(__file__).parent / "algorithms" / "presets").glob("*.yaml"))
    if algorithm.name not in known:
        raise ConfigError(f"algorithm.name={algorithm.name} is unknown. {nearest(algorithm.name, known)}")
    return config


def _value(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        raise ConfigError(f"The value of {key}={text!r} is not valid YAML: {problem}") from None
    # YAML 1.1 reads 1e-4 as a string. Where it was written in quotes, it is meant as one.
    if isinstance(value, str) and value == text.strip() and EXPONENT.fullmatch(value):
        return float(value)
    return value


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as problem:
        raise ConfigError(f"{path} is not valid YAML: {problem}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping, not {type(data).__name__}.")
    return data


def _read_own(path: Path, presets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """An environment's ``train.yaml``: a mapping of settings for each preset it names."""
    known = ["all", *presets, *(f"{preset}-data" for preset in presets), "warmup"]
    own: dict[str, dict[str, Any]] = {}
    for name, settings in _read(path).items():
        if name not in known:
            raise ConfigError(f"{path}: there is no preset {name!r}. {nearest(str(name), known)}")
        if not isinstance(settings, dict | None):
            raise ConfigError(f"{path}: {name!r} must hold a mapping, not {type(settings).__name__}.")
        own[name] = settings or {}
    return own


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over`` put on top, section by section."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{where}={error['input']!r}: {error['msg']}."
    section: type[BaseModel] = TrainConfig
    for part in error["loc"][:-1]:
        section = section.model_fields[str(part)].annotation  # type: ignore[assignment]
    prefix = "".join(f"{part}." for part in error["loc"][:-1])
    hint = nearest(str(error["loc"][-1]), list(section.model_fields))
    everywhere = [f"{name}.{error['loc'][-1]}" for name, f in TrainConfig.model_fields.items()
                  if isinstance(f.annotation, type) and issubclass(f.annotation, Section)
                  and error["loc"][-1] in f.annotation.model_fields]  # fmt: skip
    if everywhere:
        hint = f"Did you mean {' or '.join(map(repr, everywhere))}?"
    return f"There is no setting {prefix}{error['loc'][-1]}. {hint}"

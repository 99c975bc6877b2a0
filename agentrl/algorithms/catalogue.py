"""The presets: published algorithms as readable files over the parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from agentrl.algorithms.spec import PARTS, Algorithm
from agentrl.config import Algorithm as Settings
from agentrl.config import merged
from agentrl.errors import ConfigError
from agentrl.registry import nearest

FOLDER = Path(__file__).parent / "presets"

SHORT = {
    "clip_low": ("trust", "clip_low"),
    "clip_high": ("trust", "clip_high"),
    "kl_coefficient": ("kl", "coefficient"),
    "entropy_coefficient": ("entropy", "coefficient"),
    "gamma": ("advantage", "gamma"),
    "lam": ("advantage", "lam"),
    "normalize_by_std": ("advantage", "scale"),
    "loss_aggregation": ("aggregation", "kind"),
}
"""Settings of a run that are short for one of a part."""

LONG = {
    ("normalize_by_std", True): "group_std",
    ("normalize_by_std", False): "none",
    ("loss_aggregation", "token-mean"): "token",
    ("loss_aggregation", "seq-mean-token-mean"): "sequence",
    ("loss_aggregation", "seq-mean-token-sum"): "sequence_sum",
}


def names() -> list[str]:
    """The presets' names, in order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str, changes: Mapping[str, Any] | None = None) -> Algorithm:
    """A preset, with changes to its parts.

    Args:
        name: the preset's.
        changes: by part, as ``{"trust": {"clip_low": 0.1}}``; ``None`` takes an optional part away.

    Raises:
        ConfigError: there is no such preset, part or setting, with the nearest ones; or a value does not fit.
    """
    if name not in names():
        raise ConfigError(f"There is no algorithm {name!r}. {nearest(name, names())}")
    data = {**merged(_base(name, changes or {}), changes or {}), "name": name}
    try:
        return Algorithm.model_validate(data)
    except ValidationError as problem:
        raise ConfigError("\n".join(_explained(error) for error in problem.errors())) from None


def chosen(settings: Settings) -> Algorithm:
    """The algorithm that a run's settings choose: the preset, what is short for a part, then the parts.

    Raises:
        ConfigError: a part's setting is unknown or does not fit.
    """
    changes: dict[str, Any] = {}
    for short, (part, key) in SHORT.items():
        value = getattr(settings, short)
        if value is not None:
            changes.setdefault(part, {})[key] = LONG.get((short, value), value)
    own = {part: given for part in PARTS if (given := getattr(settings, part)) != {}}
    return load(settings.name, merged(changes, own))


def settings_of(algorithm: Algorithm) -> dict[str, Any]:
    """An algorithm's parts as dotted settings, those taken away as ``None``."""
    flat: dict[str, Any] = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict) and value:
            for name, below in value.items():
                walk(below, f"{key}.{name}")
        else:
            flat[key] = value

    for part in PARTS:
        value = getattr(algorithm, part)
        walk(value.model_dump() if isinstance(value, BaseModel) else value, part)
    return flat


def differences(first: Algorithm, second: Algorithm) -> dict[str, tuple[Any, Any]]:
    """By dotted setting: what the two have there, where they differ."""
    one, other = settings_of(first), settings_of(second)
    keys = [*one, *(key for key in other if key not in one)]
    pairs = {key: (one.get(key), other.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


@cache
def _read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return data


def _base(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What changes are put on top of: a part that something else is to carry out leaves no options behind."""

    def replaced(value: Any, change: Any) -> bool:
        both = isinstance(value, Mapping) and isinstance(change, Mapping)
        return both and "name" in change and change["name"] != value.get("name")

    return {key: value for key, value in _read(name).items() if not replaced(value, changes.get(key))}


def _explained(error: Any) -> str:
    branches = ("float", "Ramp")  # pydantic names the branch of a union that it tried; a reader need not know
    where = [part for part in map(str, error["loc"]) if part.isidentifier() and part not in branches]
    dotted = ".".join(["algorithm", *where])
    if error["type"] == "extra_forbidden":
        known = _known(where[:-1])
        return f"There is no setting {dotted}. {nearest(where[-1], known)}"
    return f"{dotted}={error['input']!r}: {error['msg']}."


def _known(where: list[str]) -> list[str]:
    """The settings below a place in an algorithm."""
    section: Any = Algorithm
    for part in where:
        section = section.model_fields[part].annotation
        options = [section, *getattr(section, "__args__", ())]
        section = next(kind for kind in options if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(section.model_fields)

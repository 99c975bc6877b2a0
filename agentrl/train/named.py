"""Parts of an algorithm that are chosen by name: made from their options, or refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from agentrl.algorithms import load, names
from agentrl.algorithms.spec import Named
from agentrl.errors import ConfigError
from agentrl.registry import nearest


class Options(BaseModel):
    """Options of a part; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


T = TypeVar("T", bound=Options)


def made(part: str, chosen: Named, kinds: Mapping[str, type[T]]) -> T | None:
    """What carries a part out, or ``None`` where a preset has it and training does not know how.

    Args:
        part: its name in the settings, as ``shaping``.
        chosen: its kind and options.
        kinds: those that training carries out.

    Raises:
        ConfigError: nothing is called so, or an option is unknown or does not fit.
    """
    kind = kinds.get(chosen.name)
    if kind is None:
        published = {getattr(load(name), part).name for name in names() if getattr(load(name), part)}
        if chosen.name in published:
            return None
        raise ConfigError(
            f"There is no algorithm.{part}.name={chosen.name!r}. {nearest(chosen.name, list(kinds))}"
        )
    try:
        return kind.model_validate(chosen.options)
    except ValidationError as problem:
        where = f"algorithm.{part}.options"
        raise ConfigError("\n".join(_explained(error, where, kind) for error in problem.errors())) from None


def _explained(error: Mapping[str, object], where: str, kind: type[Options]) -> str:
    place = [str(step) for step in error["loc"]]  # type: ignore[attr-defined]
    dotted = ".".join([where, *(step for step in place if step.isidentifier())])
    if error["type"] == "extra_forbidden":
        return f"There is no setting {dotted}. {nearest(place[-1], list(kind.model_fields))}"
    return f"{dotted}={error['input']!r}: {error['msg']}."

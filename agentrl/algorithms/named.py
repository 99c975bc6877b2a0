"""Parts that are kept elsewhere: from a name and options to the settings of what carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from agentrl.algorithms.spec import Named, Part
from agentrl.errors import ConfigError
from agentrl.registry import nearest

P = TypeVar("P", bound=Part)


def settings_of_part(part: Named, where: str, kinds: Mapping[str, type[P]]) -> P:
    """What carries a part out, with its options.

    Args:
        part: its name and options.
        where: the part's place in an algorithm, such as ``rollout``.
        kinds: what there is, by name.

    Raises:
        ConfigError: nothing has this name, or an option is unknown or does not fit.
    """
    kind = kinds.get(part.name)
    if kind is None:
        raise ConfigError(
            f"There is no algorithm.{where}.name={part.name}. {nearest(part.name, list(kinds))}"
        )
    try:
        return kind.model_validate(part.options)
    except ValidationError as problem:
        raise ConfigError("\n".join(_explained(error, where, kind) for error in problem.errors())) from None


def _explained(error: Mapping[str, object], where: str, kind: type[Part]) -> str:
    location = error["loc"]
    assert isinstance(location, tuple)
    # Of a union of types pydantic names those tried, which are no places.
    places = [str(place) for place in location if str(place).isidentifier()]
    dotted = ".".join(["algorithm", where, "options", *places])
    if error["type"] == "extra_forbidden":
        return f"There is no setting {dotted}. {nearest(str(location[-1]), list(kind.model_fields))}"
    return f"{dotted}={error['input']!r}: {error['msg']}."

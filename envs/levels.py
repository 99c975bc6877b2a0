"""Options that several environments share: a level of difficulty, or instead the kinds of task by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from agentrl import ConfigError


class Levelled(Protocol):
    """A kind of task that has a difficulty."""

    @property
    def level(self) -> int:
        """1, 2 or 3."""


def chosen_kinds(
    kinds: Mapping[str, Levelled], difficulty: int, names: Sequence[str] | None, *, one: str, option: str
) -> list[str]:
    """The names of the kinds that an environment draws its tasks from, each once.

    Args:
        kinds: all of them, by name.
        difficulty: those of this level, where ``names`` is ``None``.
        names: instead, these; one name may stand for itself.
        one: what messages call a kind.
        option: the option that ``names`` came from.

    Raises:
        ConfigError: the difficulty does not exist, or a name is unknown, or there is none.
    """
    if difficulty not in (1, 2, 3):
        raise ConfigError(f"difficulty={difficulty!r} must be 1, 2 or 3.")
    if names is None:
        return [name for name, kind in kinds.items() if kind.level == difficulty]
    chosen = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in chosen if name not in kinds]
    if unknown or not chosen:
        what = f"There is no {one} {unknown[0]!r}" if unknown else f"{option}= is empty"
        raise ConfigError(f"{what}; known: {', '.join(sorted(kinds))}.")
    return list(dict.fromkeys(chosen))

"""Judging by what an episode leaves behind: the state of its world, compared with what was asked for.

A state is data as JSON has it. Its *facts* are its leaves by path, such as ``orders.4821.status``; a list is
one leaf. What a task wants is given as facts too, ``None`` for those that are to be gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Facts = Mapping[str, Any]


def facts(state: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of nested mappings, by their keys joined with dots. ``None`` counts as not there."""
    return dict(_leaves(state, ""))


def _leaves(state: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        elif value is not None:
            yield f"{before}{key}", value


def changes(start: Facts, end: Facts) -> dict[str, Any]:
    """The facts in which ``end`` differs from ``start``; ``None`` for those that are gone."""
    paths = dict.fromkeys([*start, *end])
    return {path: end.get(path) for path in paths if start.get(path) != end.get(path)}


@dataclass(frozen=True)
class Comparison:
    """What became of a state, and what should have.

    Args:
        wanted: the paths that were to change.
        missing: those of them that are not as wanted.
        collateral: the paths that changed although nothing was wanted of them.
    """

    wanted: tuple[str, ...]
    missing: tuple[str, ...]
    collateral: tuple[str, ...]

    @property
    def reached(self) -> bool:
        """Whether all that was wanted was done, and nothing else."""
        return not self.missing and not self.collateral

    @property
    def share(self) -> float:
        """The share of what was wanted that was done; 0 where anything else was done too."""
        if self.collateral or not self.wanted:
            return 0.0
        return 1.0 - len(self.missing) / len(self.wanted)


def compare(start: Facts, end: Facts, wanted: Facts) -> Comparison:
    """Hold an episode's end against what its task wants.

    Args:
        start: the facts before the episode.
        end: those after it.
        wanted: those that a perfect episode changes, as :func:`changes` gives them.
    """
    collateral = tuple(path for path in changes(start, end) if path not in wanted)
    missing = tuple(path for path, value in wanted.items() if end.get(path) != value)
    return Comparison(tuple(wanted), missing, collateral)

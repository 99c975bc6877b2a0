"""What every isolation backend has to keep, a user's own included, as checks that can be run on it.

::

    async for check in run_suite(lambda: MySandbox(), promises()):
        logger.info("%s %s: %s %s", check.group, check.name, check.verdict, check.detail)

`agentrl sandbox check BACKEND` does this. A check that a backend declares in `Sandbox.not_offered`, or by its
`forks`, is reported as not offered; attacks cannot be declared away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType, ModuleType

from agentrl.errors import NotFound

from . import attacks, cleanliness, concurrency, contract, lifetime, limits
from .attack_list import ATTACKS, Attack, read_attacks
from .runners import RUNNERS, Runner, attempting
from .suite import GROUPS, Check, Ground, Promise, Suite, Verdict, run_suite
from .targets import Targets

__all__ = [
    "ATTACKS",
    "GROUPS",
    "RUNNERS",
    "Attack",
    "Check",
    "Ground",
    "Promise",
    "Runner",
    "Suite",
    "Targets",
    "Verdict",
    "attempting",
    "promises",
    "read_attacks",
    "run_suite",
]

NONE: Mapping[str, Runner] = MappingProxyType({})


def promises(
    only: Iterable[str] = (),
    more_attacks: Iterable[Attack] = (),
    more_runners: Mapping[str, Runner] = NONE,
) -> tuple[Promise, ...]:
    """The checks, in the order in which they are best run.

    Args:
        only: groups, or names of checks; nothing means all.
        more_attacks: besides those that come with the suite.
        more_runners: how attacks on further tools are made.

    Raises:
        NotFound: no group or check has a name in ``only``.
    """
    modules = (contract, limits, lifetime, concurrency, cleanliness, attacks)
    every = [each for module in modules for each in _of(module)]
    every += attacks.attack_promises((*ATTACKS, *more_attacks), {**RUNNERS, **more_runners})
    wanted = set(only)
    unknown = wanted - set(GROUPS) - {each.name for each in every}
    if unknown:
        raise NotFound(
            f"there is no group or check {', '.join(map(repr, sorted(unknown)))}; groups: {', '.join(GROUPS)}"
        )
    return tuple(each for each in every if not wanted or {each.name, each.group} & wanted)


def _of(module: ModuleType) -> list[Promise]:
    return [value for value in vars(module).values() if isinstance(value, Promise)]

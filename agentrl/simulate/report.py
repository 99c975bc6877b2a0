"""Simulated runs side by side: as numbers, and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentrl.simulate.outcome import Outcome
from agentrl.simulate.scenario import MODES, Scenario, load
from agentrl.simulate.training import simulate

if TYPE_CHECKING:
    from rich.table import Table

MOST_STEPS = {512: 3, 64: 6}
"""By engines, the steps that are measured: the more episodes a step has, the less it is up to chance."""


def sized(scenario: Scenario) -> Scenario:
    """The scenario, with fewer steps where it is large."""
    most = next((steps for engines, steps in MOST_STEPS.items() if scenario.engines >= engines), None)
    if most is None:
        return scenario
    return scenario.model_copy(update={"steps": min(most, scenario.steps)})


def run_modes(scenario: Scenario) -> list[Outcome]:
    """The scenario in its mode, or in all three.

    Raises:
        Deadlock: as :func:`agentrl.simulate.simulate`.
    """
    modes = MODES if scenario.mode == "all" else (scenario.mode,)
    return [simulate(sized(scenario), mode) for mode in modes]


def compare(profile: str, engines: int, words: Sequence[str] = ()) -> dict[str, Any]:
    """Synchronous training of a profile against asynchronous training, and both against what is possible.

    Args:
        profile: a scenario's name, such as ``math``, ``search`` or ``swe``, or a YAML file.
        engines: the size of the whole cluster.
        words: further ``key=value`` settings.

    Returns:
        ``async_over_sync`` (samples per second of one over the other), ``rollout_efficiency`` (of
        asynchronous training: the share of what a perfect scheduler reaches with the same
        bound on staleness), ``perfect_over_sync``, ``cache_hits`` and ``max_age`` of
        asynchronous training, and ``sync`` and ``async``: both outcomes in full.

    Raises:
        ConfigError: there is no such scenario, or a setting does not fit.
    """
    scenario = sized(load(profile, [f"engines={engines}", *words]))
    sync, asynchronous = simulate(scenario, "sync"), simulate(scenario, "async")
    return {
        "profile": profile,
        "engines": engines,
        "async_over_sync": asynchronous.samples_per_second / sync.samples_per_second,
        "perfect_over_sync": asynchronous.perfect_samples_per_second / sync.samples_per_second,
        "rollout_efficiency": asynchronous.efficiency,
        "cache_hits": asynchronous.cache_hits,
        "max_age": max(asynchronous.ages),
        "sync": sync.to_dict(),
        "async": asynchronous.to_dict(),
    }


def table(scenario: Scenario, outcomes: Sequence[Outcome]) -> Table:
    """Outcomes as columns, the first one the measure of the others."""
    from rich.table import Table

    first = outcomes[0]
    found = Table(title=scenario.about or None, caption=_caption(scenario), title_justify="left")
    found.add_column("")
    for outcome in outcomes:
        found.add_column(outcome.mode, justify="right")
    for name, values in [
        ("training step", [f"{o.step_seconds:.1f} s" for o in outcomes]),
        ("episodes a second", [f"{o.samples_per_second:.2f}" for o in outcomes]),
        (
            f"against {first.mode}",
            [f"{o.samples_per_second / first.samples_per_second:.2f}×" for o in outcomes],
        ),
        ("of a perfect scheduler", [_percent(o.efficiency) for o in outcomes]),
        ("tokens a second", [f"{o.tokens_per_second:,.0f}" for o in outcomes]),
        ("engines that generate", [str(o.rollout_engines) for o in outcomes]),
        ("GPUs that train", [str(o.train_gpus) for o in outcomes]),
        ("engines busy", [_percent(o.engine_busy) for o in outcomes]),
        ("trainer busy", [_percent(o.trainer_busy) for o in outcomes]),
        ("prompt tokens from cache", [_percent(o.cache_hits) for o in outcomes]),
        ("age, mean (greatest)", [f"{o.mean_age:.1f} ({max(o.ages)})" for o in outcomes]),
        ("groups by age", [" ".join(f"{age}:{count}" for age, count in o.ages.items()) for o in outcomes]),
        ("groups dropped", [_counted(o.dropped) for o in outcomes]),
        ("generating, mean (most)", [_queue(o, "running") for o in outcomes]),
        ("waiting for an engine", [_queue(o, "engine_queue") for o in outcomes]),
        ("in tools", [_queue(o, "in_tools") for o in outcomes]),
        ("waiting for a tool", [_queue(o, "tool_queue") for o in outcomes]),
        ("waiting for the trainer", [_queue(o, "ready") for o in outcomes]),
        ("$ for 1,000 episodes", [f"{o.dollars_per_1000:,.2f}" for o in outcomes]),
    ]:
        found.add_row(name, *values)
    return found


def _caption(scenario: Scenario) -> str:
    return (
        f"{scenario.engines} engines of {scenario.engine.gpus} GPU(s), "
        f"{scenario.groups * scenario.workload.group_size} episodes a step, η = {scenario.eta}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _queue(outcome: Outcome, name: str) -> str:
    return f"{outcome.timeline.mean(name):.0f} ({outcome.timeline.most(name)})"


def _counted(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "0"

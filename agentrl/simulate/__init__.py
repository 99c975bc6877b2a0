"""Virtual time: what a configuration would do on 8, 128 or 1,024 engines, in seconds.

The episode loop, the scheduler and the staleness gate are the real ones; engines, tools and the
trainer are models. :func:`simulate` runs a :class:`Scenario` in one mode, :func:`compare` sets
synchronous training against asynchronous training.
"""

from __future__ import annotations

from agentrl.simulate.clock import Deadlock, VirtualLoop, run
from agentrl.simulate.outcome import Outcome, plot
from agentrl.simulate.report import compare, run_modes, sized, table
from agentrl.simulate.scenario import MODES, Scenario, load, scenarios
from agentrl.simulate.training import simulate

__all__ = [
    "MODES",
    "Deadlock",
    "Outcome",
    "Scenario",
    "VirtualLoop",
    "compare",
    "load",
    "plot",
    "run",
    "run_modes",
    "scenarios",
    "simulate",
    "sized",
    "table",
]

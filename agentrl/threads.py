"""How the threads of one computation wait for each other. Set before torch is imported."""

from __future__ import annotations

import os

ENVIRONMENT = {"GOMP_SPINCOUNT": "1000"}
"""Turns of an idle loop before a thread of an OpenMP pool sleeps.

By default GNU's OpenMP turns for milliseconds. Where two processes compute on the same cores, each then
keeps from the other the core that it waits for: two warm-ups side by side on two cores took 40 times as
long as one alone.
"""


def share_cores() -> None:
    """Have this process and those it starts sleep rather than spin, unless the user has set how they wait."""
    if "OMP_WAIT_POLICY" in os.environ:
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
